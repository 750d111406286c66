#!/usr/bin/env python3
"""A reader of a store, written from docs/format.md alone: it proves the page, and is its most exact reading.

    format_reader.py DIR              prints what the store in DIR holds
    format_reader.py --check PROGRAM  makes stores with PROGRAM (tests/format_store.c), reads each, and compares with
                                      what PROGRAM printed; then damages copies, byte by byte at random places

It takes every byte as hostile and raises Damage for whatever the page does not allow. It changes nothing."""
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from xxh3 import M64, xxh3_64  # noqa: E402

U16, U32, U64 = (struct.Struct("<" + letter).unpack_from for letter in "HIQ")
PUT, DELETE = 1, 2
DAMAGES = 16  # of each store that the test makes


class Damage(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Damage(what)


def mix(a, b):
    z = a + 0x9E3779B97F4A7C15 + b * 0xD6E8FEB86659FD93 & M64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


class Bytes:
    """Takes values off the front of a piece of bytes."""

    def __init__(self, data, at=0, end=None):
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def take(self, n):
        expect(n <= self.end - self.at, "bytes cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def u8(self):
        return self.take(1)[0]

    def varint(self, shortest=False):
        value, begin = 0, self.at
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                expect(value <= M64, "varint above 64 bits")
                expect(not shortest or byte > 0 or self.at - begin == 1, "varint longer than necessary")
                return value
        raise Damage("varint above 10 bytes")

    def string(self):
        return self.take(self.varint())


def lz4_decode(source, image_bytes):
    """One LZ4 block."""
    out = bytearray()
    p, n = 0, len(source)

    def more(length):
        nonlocal p
        if length == 15:
            while True:
                expect(p < n, "LZ4 block cut short")
                p += 1
                length += source[p - 1]
                if source[p - 1] != 255:
                    break
        return length

    while True:
        expect(p < n, "LZ4 block cut short")
        token = source[p]
        p += 1
        literals = more(token >> 4)
        expect(literals <= n - p, "LZ4 literals cut short")
        out += source[p:p + literals]
        p += literals
        if p == n:
            break
        expect(n - p >= 2, "LZ4 offset cut short")
        offset = U16(source, p)[0]
        p += 2
        length = more(token & 15) + 4
        expect(0 < offset <= len(out) and len(out) + length <= image_bytes, "LZ4 match out of bounds")
        while length > 0:
            piece = out[len(out) - offset:len(out) - offset + length]
            out += piece
            length -= len(piece)
    expect(len(out) == image_bytes, "LZ4 block of another length")
    return bytes(out)


def read_attributes(head, source):
    """(flag or None, version, deadline) as the head announces them."""
    expect(head & 0x0F in (PUT, DELETE) and head & 0x80 == 0, "head byte %#x" % head)
    flag, version, deadline = None, b"", 0
    if head & 0x10:
        flag = source.u8()
    if head & 0x20:
        length = source.u8()
        expect(1 <= length <= 32, "version length")
        version = source.take(length)
    if head & 0x40:
        deadline = U64(source.take(8))[0]
        expect(deadline != 0, "deadline 0")
    return flag, version, deadline


# ---- MANIFEST -----------------------------------------------------------------------------------------------------


class Manifest:
    def __init__(self, data):
        expect(len(data) >= 56 and data[:8] == b"PLEATMNF", "manifest magic")
        expect(U64(data, 48)[0] == xxh3_64(data[:48]), "manifest header checksum")
        expect(U32(data, 8)[0] == 1 and U32(data, 12)[0] == 0, "manifest format")
        self.store_id = data[16:32]
        self.seed = mix(U64(data, 48)[0], U64(data, 40)[0])
        self.number_bound = self.space_bound = self.last_sequence = self.log_floor = 0
        self.history = self.history_sequence = self.clean = self.log_synced = 0
        self.cursors, self.spaces, self.tables, self.used = {}, {}, {}, {}
        self.edition = (0, 0)
        at, index = 56, 0
        while self.frame_is_valid(data, at, index):
            length = U32(data, at)[0]
            self.frame = index
            self.apply(Bytes(data, at + 16, at + 16 + length))
            at, index = at + 16 + length, index + 1
            self.edition = (U64(data, 32)[0], index if length > 0 else self.edition[1])
        expect(index > 0, "frame 0")
        for behind in range(at, len(data) - 15):
            found = U32(data, behind + 4)[0]
            expect(not (index < found <= index + (behind - at) // 16 and self.frame_is_valid(data, behind, found)),
                   "invalid frame before a valid one")
        self.check_levels()

    def note(self, lock, places, number):
        """The highest valid note of LOCK at these places."""
        key = mix(mix(U64(self.store_id, 0)[0], U64(self.store_id, 8)[0]), number)
        notes = [lock[at:at + 24] for at in places if len(lock) >= at + 24]
        return max([struct.unpack_from("<QQ", note) for note in notes
                    if U64(note, 16)[0] == xxh3_64(note[:16], key)], default=(0, 0))

    def noted(self, lock):
        """The edition that LOCK notes."""
        return self.note(lock, (16, 40), 0)

    def durable(self, lock):
        """The sequence that was durable by the word of LOCK."""
        return self.note(lock, (64, 88), M64)[0]

    def frame_is_valid(self, data, at, index):
        if len(data) - at < 16 or U32(data, at + 4)[0] != index or U32(data, at)[0] > len(data) - at - 16:
            return False
        length = U32(data, at)[0]
        seed = mix(mix(self.seed, index), length)
        return U64(data, at + 8)[0] == xxh3_64(data[at + 16:at + 16 + length], seed)

    def raised(self, name, value):
        expect(value >= getattr(self, name), name + " went down")
        setattr(self, name, value)

    def apply(self, payload):
        missing, last_name = 0, None
        while payload.at < payload.end:
            tag = payload.varint()
            length = payload.varint()
            expect(length <= payload.end - payload.at, "field cut short")
            field = Bytes(payload.data, payload.at, payload.at + length)
            payload.at += length
            if tag == 2:
                self.raised("number_bound", field.varint())
            elif tag == 4:
                self.raised("space_bound", field.varint())
            elif tag == 6:
                self.raised("last_sequence", field.varint())
                self.raised("log_floor", field.varint())
                missing, last_name = field.varint(), None
                expect(missing <= 1024, "cursors")
                self.cursors = {}
            elif tag == 8:
                name, value, incarnation = field.string(), field.string(), field.string()
                expect(missing > 0 and (last_name is None or name > last_name), "cursor out of place")
                expect(len(name) <= 255 and len(value) <= 1024 and len(incarnation) <= 64, "cursor lengths")
                self.cursors[name] = (value, incarnation)
                missing, last_name = missing - 1, name
            elif tag == 10:
                self.history, self.history_sequence = field.varint(), field.varint()
            elif tag == 24:
                self.raised("log_synced", field.varint())
            elif tag == 12:
                self.clean = field.varint()
                expect(self.clean <= 1, "clean")
            elif tag == 14:
                self.create_space(field)
            elif tag in (16, 18):
                space = field.varint()
                expect(space in self.spaces, "space that is not there")
                for number in [n for n, table in self.tables.items() if table["space"] == space]:
                    del self.tables[number]
                if tag == 16:
                    del self.spaces[space]
            elif tag == 20:
                space, level, number = field.varint(), field.varint(), field.varint()
                table = self.tables.pop(number, None)
                expect(table is not None and (table["space"], table["level"]) == (space, level), "table not there")
                self.used[number] = (self.frame, space)
            elif tag == 22:
                self.add_table(field)
            else:
                expect(tag % 2 == 1, "newer field %d" % tag)
                continue
            expect(field.at == field.end, "bytes behind the content of field %d" % tag)
        expect(missing == 0, "cursors missing")

    def create_space(self, field):
        keys = ("id", "codec", "block_bytes", "group_bytes", "group_delimiters", "delimiter")
        space = {key: field.varint() for key in keys}
        space["name"] = field.string()
        expect(self.space_bound <= space["id"] < 2**32 - 1, "space id")
        expect(1 <= len(space["name"]) <= 255, "space name")
        expect(all(other["name"] != space["name"] for other in self.spaces.values()), "space name twice")
        expect(space["codec"] in (1, 2) and 64 <= space["block_bytes"] <= 1 << 20, "space options")
        expect(space["group_bytes"] == 0 or space["group_delimiters"] == 0, "two groupings")
        expect(max(space["group_bytes"], space["group_delimiters"]) <= 65535 and space["delimiter"] < 256, "grouping")
        self.spaces[space["id"]] = space
        self.space_bound = space["id"] + 1
        expect(len(self.spaces) <= 1024, "spaces")

    def add_table(self, field):
        keys = ("space", "level", "number", "file_bytes", "entries", "tombstones", "key_value_bytes", "sequence_min",
                "sequence_max", "deadline_min", "blocks", "key_bytes_max", "codec", "filter")
        table = {key: field.varint() for key in keys}
        table["footer_checksum"] = U64(field.take(8))[0]
        table["smallest"], table["largest"] = field.string(), field.string()
        number = table["number"]
        expect(table["space"] in self.spaces and table["level"] <= 6, "table of no space or level")
        expect(1 <= number < self.number_bound and number not in self.tables, "table number")
        expect(number not in self.used or self.used[number] == (self.frame, table["space"]), "table number used twice")
        expect(1 <= table["blocks"] <= table["entries"] and table["tombstones"] <= table["entries"], "table counts")
        expect(table["sequence_min"] <= table["sequence_max"], "table sequences")
        expect(table["smallest"] <= table["largest"], "table range")
        longest = max(len(table["smallest"]), len(table["largest"]))
        expect(longest <= table["key_bytes_max"] <= 65535, "longest key")
        expect(table["codec"] in (1, 2) and table["filter"] <= 2 and table["file_bytes"] > 0, "table options")
        self.tables[number] = table
        self.used.setdefault(number, (self.frame, None))

    def levels(self, space):
        """Tables of a space in the order in which a reader asks them."""
        for level in range(7):
            tables = [t for t in self.tables.values() if t["space"] == space and t["level"] == level]
            yield level, sorted(tables, key=lambda t: (-t["sequence_max"] if level == 0 else 0, t["smallest"]))

    def check_levels(self):
        for space in self.spaces:
            for level, tables in self.levels(space):
                for a, b in zip(tables, tables[1:]):
                    if level > 0 or a["sequence_max"] == b["sequence_max"]:
                        expect(a["largest"] < b["smallest"], "tables overlap in level %d" % level)


# ---- tables -------------------------------------------------------------------------------------------------------


class Table:
    """Verifies a whole table file against the manifest's word of it; rows: {key: (kind, value, version, flag)}."""

    def __init__(self, data, store_id, meta, space):
        self.data, self.meta, self.space = data, meta, space
        self.seed = mix(xxh3_64(store_id, 0x4C42545441454C50), meta["number"])
        expect(len(data) == meta["file_bytes"] and len(data) >= 152, "table length")
        at = len(data) - 152
        footer = data[at:]
        expect(footer[:8] == b"PLEATTBL" and footer[144:] == b"tblPLEAT", "table magic")
        expect(U64(footer, 136)[0] == xxh3_64(footer[:136], mix(self.seed, at)), "footer checksum")
        expect(struct.unpack_from("<II", footer, 8) == (2, 152) and footer[16:32] == store_id, "footer identity")
        number, file_bytes, entries, blocks, zero = struct.unpack_from("<QQQII", footer, 32)
        expect((number, file_bytes, zero) == (meta["number"], len(data), 0), "footer fields")
        expect(U64(footer, 136)[0] == meta["footer_checksum"], "footer checksum of the manifest")
        index, filter_, properties = (struct.unpack_from("<QIIQ", footer, place) for place in (64, 88, 112))
        filter_end = filter_[0] + (24 + filter_[1] if filter_[1] else 0)
        expect(index[0] + 24 + index[1] == filter_[0] and filter_end == properties[0], "sections do not touch")
        expect(properties[0] + 24 + properties[1] == at, "sections do not touch the footer")
        self.check_properties(self.section(properties), entries, blocks)
        image = self.section(index)
        pages_end = U64(image, 16)[0]
        self.filter = Filter(*self.filter_image(self.section(filter_), pages_end, index[0])) if filter_[1] else None
        expect(self.filter or pages_end == index[0], "pages of no filter")
        expect((self.filter.kind if self.filter else 0) == meta["filter"], "filter kind")
        self.rows = {}
        self.read_index(image, blocks)
        self.check_rows()

    def piece(self, offset, stored_bytes, image_bytes):
        expect(stored_bytes > 0 and 0 < image_bytes <= 255 * stored_bytes + 64, "lengths of a piece")
        expect(offset + 24 + stored_bytes <= len(self.data), "piece behind the end")
        piece = self.data[offset:offset + 24 + stored_bytes]
        checksum, stored, image, codec = struct.unpack_from("<QIIB", piece)
        expect(checksum == xxh3_64(piece[8:], mix(self.seed, offset)), "checksum of the piece at %d" % offset)
        expect((stored, image) == (stored_bytes, image_bytes) and piece[17:24] == bytes(7), "header of a piece")
        expect(codec in (1, 2), "codec of a piece")
        if codec == 1:
            return checksum, lz4_decode(piece[24:], image)
        expect(stored == image, "raw piece of two lengths")
        return checksum, piece[24:]

    def section(self, place):
        checksum, image = self.piece(*place[:3])
        expect(checksum == place[3], "section checksum")
        return image

    def check_properties(self, image, entries, blocks):
        meta, space = self.meta, self.space
        expect(len(image) >= 80, "properties length")
        fields = struct.unpack_from("<QQQQQQIIIIBBBBIII", image)
        smallest_bytes, largest_bytes = fields[14], fields[15]
        expect(len(image) == 80 + smallest_bytes + largest_bytes, "properties length")
        wanted = tuple(meta[key] for key in ("entries", "tombstones", "key_value_bytes", "sequence_min", "sequence_max",
                                             "deadline_min", "blocks", "key_bytes_max"))
        wanted += (space["group_bytes"], space["group_delimiters"], space["delimiter"])
        wanted += (meta["codec"], meta["filter"], 0, len(meta["smallest"]), len(meta["largest"]), 0)
        expect(fields == wanted, "properties against the manifest")
        expect(image[80:] == meta["smallest"] + meta["largest"], "range against the manifest")
        expect((entries, blocks) == (meta["entries"], meta["blocks"]), "footer counts against the manifest")

    def filter_image(self, directory, offset, end):
        """The directory, with the data of all parts behind it."""
        parts, data = U32(directory, 4)[0], b""
        for part in range(parts):
            _, _, shape, units = struct.unpack_from("<QQII", directory, 16 + 24 * part)
            if units:
                length = (((units if U32(directory)[0] == 1 else units + 2) * shape) + 63) // 64 * 64
                data += self.piece(offset, length, length)[1]
                offset += 24 + length
        expect(offset == end, "filter pages do not end at the index")
        return directory + data, len(directory)

    def read_index(self, image, blocks):
        pages, zero, pages_at, pages_end, stored_max, image_max = struct.unpack_from("<IIQQII", image)
        expect(zero == 0 and pages > 0 and pages_at < pages_end, "index header")
        offsets = struct.unpack_from("<%dQ" % pages, image, 32) + (pages_at,)
        firsts = struct.unpack_from("<%dI" % pages, image, 32 + 8 * pages) + (blocks,)
        places, separators = read_node(image[32 + 12 * pages:], pages_end - pages_at)
        expect(len(places) == pages and offsets[0] == firsts[0] == 0, "pages of the index")
        self.last, self.longest = None, [0, 0]
        for page, (at, stored, image_bytes) in enumerate(places):
            covered = offsets[page + 1] - offsets[page]
            node = read_node(self.piece(pages_at + at, stored, image_bytes)[1], covered)
            expect(len(node[0]) == firsts[page + 1] - firsts[page], "blocks of an index page")
            self.read_blocks(offsets[page], node, separators[page - 1] if page > 0 else None)
        expect(self.longest == [stored_max, image_max], "longest block")

    def read_blocks(self, base, node, separator):
        for i, (at, stored, image_bytes) in enumerate(node[0]):
            is_packed = self.data[base + at + 16:base + at + 17] == b"\1"
            self.longest = [max(self.longest[0], stored), max(self.longest[1], image_bytes)]
            for key, row in read_block(self.piece(base + at, stored, image_bytes)[1], is_packed):
                if separator is not None:
                    common = len(os.path.commonprefix([self.last, key]))
                    expect(separator == key[:common + 1], "separator before %r" % key)
                    separator = None
                expect(self.last is None or self.last < key, "order of keys")
                self.rows[key] = row
                self.last = key
            separator = node[1][i] if i < len(node[1]) else None

    def group(self, key):
        space = self.space
        if space["group_bytes"]:
            return key[:space["group_bytes"]] if len(key) >= space["group_bytes"] else None
        at = 0
        for _ in range(space["group_delimiters"]):
            at = key.find(bytes([space["delimiter"]]), at) + 1
            if at == 0:
                return None
        return key[:at] if at else None

    def check_rows(self):
        meta, keys = self.meta, list(self.rows)
        expect(len(keys) == meta["entries"], "count of entries")
        expect((keys[0], keys[-1]) == (meta["smallest"], meta["largest"]), "range of keys")
        expect(sum(row[0] == DELETE for row in self.rows.values()) == meta["tombstones"], "count of tombstones")
        expect(sum(len(key) + len(row[1]) for key, row in self.rows.items()) == meta["key_value_bytes"], "sum of bytes")
        expect(max(map(len, keys)) == meta["key_bytes_max"], "longest key")
        if self.filter:
            for key in keys:
                expect(self.filter.may_contain(xxh3_64(key)), "key that the filter lacks")
                group = self.group(key)
                hash_ = xxh3_64(group, 0x9D1F6A7B3C5E2481) if group else None
                expect(hash_ is None or self.filter.may_contain(hash_), "group that the filter lacks")


def read_node(image, covered):
    """[(offset, stored bytes, image bytes) of each child], [separators]."""
    n, prefix_bytes, tail_bytes, zero = struct.unpack_from("<IIII", image)
    expect(n > 0 and zero == 0, "header of an index node")
    heads_at = 16 + (prefix_bytes + 7) // 8 * 8
    offsets_at = heads_at + 8 * (n - 1)
    lengths_at = offsets_at + 8 * n
    ends_at = lengths_at + 2 * (n - 1)
    tails_at = ends_at + (4 * (n - 1) if tail_bytes else 0)
    expect(len(image) == tails_at + tail_bytes, "length of an index node")
    expect(not any(image[16 + prefix_bytes:heads_at]), "zeros behind a prefix")
    prefix, tails, end = image[16:16 + prefix_bytes], image[tails_at:], 0
    offsets = struct.unpack_from("<%dI" % n, image, offsets_at) + (covered,)
    images = struct.unpack_from("<%dI" % n, image, offsets_at + 4 * n)
    separators = []
    for i in range(n - 1):
        length, begin = U16(image, lengths_at + 2 * i)[0], end
        end = U32(image, ends_at + 4 * i)[0] if tail_bytes else 0
        head = struct.pack(">Q", U64(image, heads_at + 8 * i)[0])
        rest = length - prefix_bytes
        expect(rest >= 0 and length > 0 and not any(head[rest:]) and end - begin == max(0, rest - 8), "a separator")
        separators.append(prefix + head[:rest] + tails[begin:end])
    expect(offsets[0] == 0 and end == tail_bytes, "ends of an index node")
    expect(all(a < b for a, b in zip(separators, separators[1:])), "order of separators")
    expect(prefix == (os.path.commonprefix(separators) if n > 1 else b""), "prefix of the separators")
    return [(offsets[i], offsets[i + 1] - offsets[i] - 24, images[i]) for i in range(n)], separators


def read_block(image, is_packed):
    expect(len(image) >= 16, "block header")
    n, flags, prefix_bytes, prefix_at, entries_at = struct.unpack_from("<IHHII", image)
    wide = flags & 1
    expect(n > 0 and flags <= 1 and bool(wide) == (len(image) > 65535), "block flags")
    expect(prefix_at == 16 + n * (5 if wide else 3) and entries_at == prefix_at + prefix_bytes, "block places")
    expect(entries_at < len(image), "block length")
    prefix = image[prefix_at:entries_at]
    source = Bytes(image, entries_at)
    last, place = None, 0
    for i in range(n):
        number = U32(image, 16 + n + 4 * i)[0] if wide else U16(image, 16 + n + 2 * i)[0]
        place = (place + number & (0xFFFFFFFF if wide else 0xFFFF)) if is_packed else number
        expect(place == source.at, "offset of an entry")
        head = source.u8()
        suffix_bytes = source.varint(True)
        value_bytes = source.varint(True) if head & 0x0F == PUT else 0
        flag, version, _ = read_attributes(head, source)
        key = prefix + source.take(suffix_bytes)
        value = source.take(value_bytes)
        expect(len(key) <= 65535 and (last is None or last < key), "key of a block")
        expect(image[16 + i] == xxh3_64(key) >> 56, "fingerprint")
        yield key, (head & 0x0F, value, version, flag)
        last = key
    expect(source.at == len(image), "bytes behind the entries")


class Filter:
    def __init__(self, image, directory_bytes):
        self.image = image
        self.kind, n, self.hashes = struct.unpack_from("<IIQ", image)
        expect(self.kind in (1, 2) and 0 < n <= (len(image) - 16) // 24, "filter header")
        self.parts = [struct.unpack_from("<QQII", image, 16 + 24 * i) for i in range(n)]
        at = (16 + 24 * n + 63) // 64 * 64
        for _, data_at, shape, units in self.parts:
            expect(data_at == at, "filter part out of place")
            if units == 0:
                expect(shape <= 1, "filter part without data")
                continue
            if self.kind == 1:
                expect(shape == 64, "Bloom shape")
            else:
                expect(shape & (shape - 1) == 0 and 4 <= shape <= 262144, "fuse shape")
            at += ((units if self.kind == 1 else units + 2) * shape + 63) // 64 * 64
        expect(at == len(image) and directory_bytes == (16 + 24 * n + 63) // 64 * 64, "filter length")

    def may_contain(self, hash_):
        product = hash_ * len(self.parts)
        seed, at, shape, units = self.parts[product >> 64]
        x = product & M64
        if units == 0:
            return shape == 1
        if self.kind == 1:
            block = at + 64 * (x * units >> 64)
            bits = (x ^ x >> 32) * 0x9E3779B97F4A7C15 & M64
            bits ^= bits >> 29
            return all(self.image[block + (bits >> 9 * i + 3 & 63)] >> (bits >> 9 * i & 7) & 1 for i in range(6))
        m = (x ^ seed) * 0xFF51AFD7ED558CCD & M64
        m = (m ^ m >> 32) * 0xC4CEB9FE1A85EC53 & M64
        m ^= m >> 33
        first = m * (units * shape) >> 64
        slots = first, first + shape ^ m >> 18 & shape - 1, first + 2 * shape ^ m & shape - 1
        a, b, c = (self.image[at + slot] for slot in slots)
        return a ^ b ^ c == (m ^ m >> 32) & 255


# ---- log segments -------------------------------------------------------------------------------------------------


class Segment:
    """The records of a segment that can be followed, and what had been durable by the word of all valid ones."""

    def __init__(self, data, store_id, number, floor):
        self.key = mix(mix(U64(store_id, 0)[0], U64(store_id, 8)[0]), number)
        self.data, self.records, self.durable, self.is_valid = data, [], 0, False
        at = 160
        for mark in (128, 144) if len(data) >= 160 else ():
            if U64(data, mark + 8)[0] == xxh3_64(data[mark:mark + 8], self.key):
                self.durable = max(self.durable, U64(data, mark)[0])
        if len(data) >= 160 and data[:8] == b"PLEATWAL" and U64(data, 120)[0] == xxh3_64(data[:120]):
            expect(struct.unpack_from("<II", data, 8) == (1, 160), "segment format")
            expect(data[16:32] == store_id and U64(data, 32)[0] == number, "segment identity")
            self.predecessor = struct.unpack_from("<QQQ", data, 40)
            self.first_sequence, reserved = struct.unpack_from("<QQ", data, 64)
            expect(self.predecessor[0] < number and self.first_sequence > self.predecessor[1], "segment order")
            expect(len(data) <= reserved and data[96:120] == bytes(24), "segment header")
            self.edition = struct.unpack_from("<QQ", data, 80)
            self.is_valid, self.missing = True, reserved - len(data)
            if self.predecessor[0] == 0:
                self.durable = max(self.durable, self.predecessor[1])
            self.number, self.last, self.running = number, self.first_sequence - 1, U64(data, 120)[0]
            at = self.read(at, floor)
        self.end = at
        self.scan(at)

    def record(self, at):
        """(sequence, durable, entries, cursors, length, checksum), or None when there is no valid record."""
        data = self.data
        if len(data) - at < 48:
            return None
        units, entries, sequence, durable, cursor_bytes, cursors, padding, zero, check, checksum = \
            struct.unpack_from("<IIQQIHBBQQ", data, at)
        length = 8 * units
        if length < 48 or length > len(data) - at or padding > 7 or zero or durable >= sequence or \
                48 + cursor_bytes + padding > length or check != xxh3_64(data[at:at + 32], self.key) or \
                checksum != xxh3_64(data[at + 48:at + length], check):
            return None
        cursors_at = at + length - padding - cursor_bytes
        return (sequence, durable, (entries, at + 48, cursors_at), (cursors, cursors_at, at + length - padding), length,
                checksum)

    def read(self, at, floor):
        while True:
            record = self.record(at)
            if record is None:
                return at
            sequence, durable, entries, cursors, length, checksum = record
            if sequence != self.last + 1 and not self.last + 1 < sequence <= floor + 1:
                return at
            padding = self.data[cursors[2]:at + length]
            expect(padding == bytes(len(padding)), "padding of a record")
            self.records.append((sequence, list(self.entries(*entries)), list(self.cursors(*cursors))))
            self.durable = max(self.durable, durable)
            self.last, self.running, at = sequence, mix(self.running, checksum), at + length

    def entries(self, count, at, end):
        source = Bytes(self.data, at, end)
        for _ in range(count):
            head = source.u8()
            space, key_bytes = source.varint(), source.varint()
            value_bytes = source.varint() if head & 0x0F == PUT else 0
            flag, version, _ = read_attributes(head, source)
            expect(key_bytes <= 65535, "key of a record")
            yield space, source.take(key_bytes), (head & 0x0F, source.take(value_bytes), version, flag)
        expect(source.at == end, "entries of a record")

    def cursors(self, count, at, end):
        source = Bytes(self.data, at, end)
        for _ in range(count):
            lengths = source.varint(), source.varint(), source.varint()
            flags = source.u8()
            expect(flags <= 2 and (flags < 2 or lengths[1:] == (0, 0)), "flags of a cursor")
            yield tuple(source.take(length) for length in lengths) + (flags == 2,)
        expect(source.at == end, "cursors of a record")

    def scan(self, at):
        """What lies behind the end: evidence of what was durable."""
        torn = self.data[at:].count(0) != len(self.data) - at
        while torn and len(self.data) - at >= 48:
            record = self.record(at) if U64(self.data, at)[0] else None
            if record and (not self.is_valid or record[0] > self.last):
                self.durable = max(self.durable, record[1])
                at += record[4]
            else:
                at += 8


# ---- the store ----------------------------------------------------------------------------------------------------


class Store:
    def __init__(self, path):
        def load(name):
            with open(os.path.join(path, name), "rb") as file:
                return file.read()

        self.manifest = manifest = Manifest(load("MANIFEST"))
        names = os.listdir(path)
        noted = manifest.noted(load("LOCK")) if "LOCK" in names else (0, 0)
        expect(manifest.edition >= noted, "MANIFEST is older than LOCK knows: %r, %r" % (manifest.edition, noted))
        self.durable = manifest.durable(load("LOCK")) if "LOCK" in names else 0
        self.tables, self.rows = {}, {}
        for space in manifest.spaces:
            rows = self.rows[space] = {}
            for _, tables in manifest.levels(space):
                for meta in tables:
                    name = "%06d.tbl" % meta["number"]
                    expect(name in names, name + " is missing")
                    table = Table(load(name), manifest.store_id, meta, manifest.spaces[space])
                    for key, row in table.rows.items():
                        rows.setdefault(key, row)  # what is found first is the newest
        self.cursors = dict(manifest.cursors)
        self.sequence = manifest.last_sequence
        numbers = sorted(int(name[:-4]) for name in names if re.fullmatch(r"(\d{6}|[1-9]\d{6,})\.wal", name))
        self.follow_log([(n, load("%06d.wal" % n)) for n in numbers if n >= manifest.log_floor])

    def follow_log(self, files):
        floor = self.manifest.last_sequence
        durable, tail, ended = self.durable, None, False
        self.log_records = 0
        numbers = [number for number, _ in files]
        synced = self.manifest.log_synced
        expect(synced == 0 or synced < self.manifest.log_floor or synced in numbers, "a synced segment is missing")
        for number, data in files:
            segment = Segment(data, self.manifest.store_id, number, floor)
            durable = max(durable, segment.durable)
            expect(not segment.is_valid or segment.edition <= self.manifest.edition,
                   "MANIFEST is older than segment %d knows" % number)
            expect(number > synced or segment.is_valid and segment.missing == 0, "a synced segment is cut")
            expect(not segment.is_valid or segment.predecessor[0] < self.manifest.log_floor or
                   segment.predecessor[0] in numbers or segment.predecessor[1] <= self.manifest.history_sequence,
                   "a predecessor is missing")
            if not segment.is_valid or ended:
                ended = True
                continue
            if (segment.first_sequence > floor + 1) if tail is None else (segment.predecessor != tail):
                ended = True
                continue
            for sequence, entries, cursors in segment.records:
                if sequence > floor:
                    if sequence != self.sequence + 1:
                        ended = True
                        break
                    self.apply(sequence, entries, cursors)
            tail = segment.number, segment.last, segment.running
        expect(durable <= self.sequence, "the log ends at %d, durable was %d" % (self.sequence, durable))

    def apply(self, sequence, entries, cursors):
        for space, key, row in entries:
            expect(space in self.rows, "record of a space that is not there")
            self.rows[space][key] = row
        for name, value, incarnation, removes in cursors:
            stored = self.cursors.pop(name, (b"", b""))
            if not removes:
                self.cursors[name] = value, incarnation or stored[1]
        self.sequence = sequence
        self.log_records += 1

    def text(self):
        """What the store shows to its users, a line each, as tests/format_store.c prints it."""
        yield "sequence %d" % self.sequence
        for name, (value, incarnation) in sorted(self.cursors.items()):
            yield "cursor %s %s %s" % (name.hex() or "-", value.hex() or "-", incarnation.hex() or "-")
        for space, info in sorted(self.manifest.spaces.items()):
            yield "space %s" % info["name"].hex()
            for key, (kind, value, version, flag) in sorted(self.rows[space].items()):
                if kind == PUT:
                    yield "row %s %s %s %s" % (key.hex() or "-", value.hex() or "-", version.hex() or "-",
                                               "-" if flag is None else flag)


# ---- the test -----------------------------------------------------------------------------------------------------


def flip_bit(path, rng):
    """Flips a bit of a file, in front of its trailing zeroes. Returns where."""
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        at = rng.randrange(len(data.rstrip(b"\0")) or 1)
        data[at] ^= 1 << rng.randrange(8)
        file.seek(0)
        file.write(data)
    return at


def check_damage(path, store, rng):
    """A flipped bit of a table is always found. One in the log or the manifest is found, or shows an earlier state (a
    torn end), or is in what nobody reads; it never shows anything else."""
    text = list(store.text())
    live = {"%06d.tbl" % number for number in store.manifest.tables}
    files = sorted(name for name in os.listdir(path) if name.endswith(".wal") or name == "MANIFEST" or name in live)
    caught = 0
    for _ in range(DAMAGES):
        name = rng.choice(files)
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(path, copy, dirs_exist_ok=True)
            at = flip_bit(os.path.join(copy, name), rng)
            try:
                found = Store(copy)
            except Damage:
                caught += 1
                continue
        assert name not in live, "%s: the flipped bit at offset %d was not noticed" % (name, at)
        is_same = list(found.text()) == text
        assert is_same or found.sequence < store.sequence, "%s: offset %d: another state" % (name, at)
    return caught


def check_editions(path, store):
    """A MANIFEST that lost a frame or more is damage, for LOCK notes how many it had."""
    with open(os.path.join(path, "LOCK"), "rb") as lock:
        assert store.manifest.noted(lock.read()) == store.manifest.edition, "LOCK does not note the last edition"
    with open(os.path.join(path, "MANIFEST"), "rb") as file:
        data = file.read()
    at, ends = 56, []
    while at < len(data):
        length = U32(data, at)[0]
        ends += [at] if length > 0 else []
        at += 16 + length
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(path, copy, dirs_exist_ok=True)
        for end in ends:
            with open(os.path.join(copy, "MANIFEST"), "wb") as file:
                file.write(data[:end])
            try:
                Store(copy)
            except Damage:
                continue
            raise AssertionError("a MANIFEST cut at %d was not noticed" % end)


def check(program):
    seed = int(os.environ.get("PLEAT_TEST_SEED") or "0", 0) or random.randrange(1, 1 << 32)
    print("PLEAT_TEST_SEED=%d" % seed)
    rng = random.Random(seed)
    for mode in ("closed", "killed"):
        with tempfile.TemporaryDirectory() as home:
            path = os.path.join(home, "store")
            writer = [program, path, mode, str(seed)]
            expected = subprocess.run(writer, check=True, stdout=subprocess.PIPE, text=True).stdout
            store = Store(path)
            found = "".join(line + "\n" for line in store.text())
            if found != expected:
                for a, b in zip(found.splitlines(), expected.splitlines()):
                    if a != b:
                        print("read     %.200s\nexpected %.200s" % (a, b))
                        break
                print("%s: %d lines read, %d expected" % (mode, found.count("\n"), expected.count("\n")))
                return 1
            tables = list(store.manifest.tables.values())
            levels = sorted({table["level"] for table in tables})
            print("%s: %d lines, %d tables in levels %s, %d log records, history %d" %
                  (mode, found.count("\n"), len(tables), levels, store.log_records, store.manifest.history))
            assert len(tables) > 3 and len(levels) > 1, "a store of too few tables"
            assert {table["filter"] for table in tables} == {1, 2}, "a store without one kind of filter"
            assert (store.log_records > 0) == (mode == "killed"), "log records"
            assert 0 < store.durable <= store.sequence, "LOCK does not note what was durable"
            check_editions(path, store)
            print("%s: %d of %d flipped bits are damage" % (mode, check_damage(path, store, rng), DAMAGES))
    return 0


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--check":
        return check(arguments[1])
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        try:
            for line in Store(arguments[0]).text():
                print(line)
        except Damage as damage:
            print("damaged: %s" % damage, file=sys.stderr)
            return 1
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
