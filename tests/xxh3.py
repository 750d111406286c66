"""XXH3-64 in plain Python, with and without a seed, for inputs of any length: for tests/format_reader.py.

Written from the published algorithm. The five length classes (0, 1-16, 17-128, 129-240, longer) share the default
secret; a seed changes how the secret is read for short inputs and derives another secret for long ones."""
import struct

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF

P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")

u32 = struct.Struct("<I").unpack_from
u64 = struct.Struct("<Q").unpack_from
lanes = struct.Struct("<8Q").unpack_from


def fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche(h):
    h ^= h >> 37
    h = h * MX1 & M64
    return h ^ h >> 32


def avalanche_xxh64(h):
    h ^= h >> 33
    h = h * P64_2 & M64
    h ^= h >> 29
    h = h * P64_3 & M64
    return h ^ h >> 32


def rotate(h, n):
    return (h << n | h >> 64 - n) & M64


def mix16(data, at, secret_at, seed):
    low, high = u64(SECRET, secret_at)[0], u64(SECRET, secret_at + 8)[0]
    return fold(u64(data, at)[0] ^ (low + seed & M64), u64(data, at + 8)[0] ^ (high - seed & M64))


def hash_to_16(data, seed):
    n = len(data)
    if n > 8:
        flip1 = (u64(SECRET, 24)[0] ^ u64(SECRET, 32)[0]) + seed & M64
        flip2 = (u64(SECRET, 40)[0] ^ u64(SECRET, 48)[0]) - seed & M64
        low = u64(data, 0)[0] ^ flip1
        high = u64(data, n - 8)[0] ^ flip2
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return avalanche(n + swapped + high + fold(low, high) & M64)
    if n >= 4:
        seed ^= int.from_bytes((seed & M32).to_bytes(4, "little"), "big") << 32
        flip = (u64(SECRET, 8)[0] ^ u64(SECRET, 16)[0]) - seed & M64
        h = (u32(data, n - 4)[0] + (u32(data, 0)[0] << 32)) ^ flip
        h ^= rotate(h, 49) ^ rotate(h, 24)
        h = h * MX2 & M64
        h ^= (h >> 35) + n
        h = h * MX2 & M64
        return h ^ h >> 28
    if n > 0:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return avalanche_xxh64(combined ^ ((u32(SECRET, 0)[0] ^ u32(SECRET, 4)[0]) + seed & M64))
    return avalanche_xxh64(seed ^ u64(SECRET, 56)[0] ^ u64(SECRET, 64)[0])


def hash_to_128(data, seed):
    n = len(data)
    total = n * P64_1
    for i in range((n - 1) // 32, -1, -1):
        total += mix16(data, 16 * i, 32 * i, seed) + mix16(data, n - 16 * (i + 1), 32 * i + 16, seed)
    return avalanche(total & M64)


def hash_to_240(data, seed):
    n = len(data)
    total = n * P64_1
    for i in range(8):
        total += mix16(data, 16 * i, 16 * i, seed)
    total = avalanche(total & M64)
    for i in range(8, n // 16):
        total += mix16(data, 16 * i, 16 * (i - 8) + 3, seed)
    return avalanche(total + mix16(data, n - 16, 136 - 17, seed) & M64)


def secret_of(seed):
    if seed == 0:
        return SECRET
    words = struct.unpack("<24Q", SECRET)
    return struct.pack("<24Q", *(w + seed & M64 if i % 2 == 0 else w - seed & M64 for i, w in enumerate(words)))


def hash_long(data, seed):
    secret = secret_of(seed)
    n = len(data)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    keys = [lanes(secret, 8 * i) for i in range(16)]

    def stripe(at, key):
        words = lanes(data, at)
        for i in range(8):
            keyed = words[i] ^ key[i]
            acc[i ^ 1] += words[i]
            acc[i] += (keyed & M32) * (keyed >> 32)

    scramble = lanes(secret, 128)
    blocks = (n - 1) // 1024
    for block in range(blocks):
        for i in range(16):
            stripe(1024 * block + 64 * i, keys[i])
        for i in range(8):
            value = acc[i] & M64
            acc[i] = (value ^ value >> 47 ^ scramble[i]) * P32_1 & M64
    for i in range((n - 1 - 1024 * blocks) // 64):
        stripe(1024 * blocks + 64 * i, keys[i])
    stripe(n - 64, lanes(secret, 192 - 64 - 7))
    total = n * P64_1
    for i in range(4):
        total += fold(acc[2 * i] & M64 ^ u64(secret, 11 + 16 * i)[0],
                      acc[2 * i + 1] & M64 ^ u64(secret, 11 + 16 * i + 8)[0])
    return avalanche(total & M64)


def xxh3_64(data, seed=0):
    n = len(data)
    if n <= 16:
        return hash_to_16(data, seed)
    if n <= 128:
        return hash_to_128(data, seed)
    if n <= 240:
        return hash_to_240(data, seed)
    return hash_long(data, seed)
