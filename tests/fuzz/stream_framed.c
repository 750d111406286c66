/* stream_framed.c - fuzzes the framed format of the fold tool: +klen,vlen:key->value, -klen:key, =clen:cursor. */
#include "fuzz/stream_check.h"

#define HEAD_BYTES_MAX 32

/* Digits and the byte behind them; false when there are none, too many for any length, or another byte follows. */
static bool plain_number(const uint8_t **p, const uint8_t *end, uint8_t behind, uint64_t *ret_number) {
    const uint8_t *begin = *p;
    uint64_t number = 0;
    while (*p < end && **p >= '0' && **p <= '9') {
        number = number < UINT32_MAX ? number * 10 + (uint64_t)(**p - '0') : number;
        (*p)++;
    }
    *ret_number = number;
    return *p > begin && *p < end && *(*p)++ == behind;
}

static enum stream_result plain_frame(const uint8_t **data, const uint8_t *end, uint8_t *buffer,
                                      struct stream_record *ret_record) {
    const uint8_t *p = *data;
    (void)buffer;
    if (p == end) {
        return STREAM_END;
    }
    size_t within = (size_t)(end - p) < HEAD_BYTES_MAX ? (size_t)(end - p) : HEAD_BYTES_MAX;
    const uint8_t *colon = memchr(p, ':', within);
    if (colon == NULL) {
        return within == HEAD_BYTES_MAX ? STREAM_BAD : STREAM_CUT;
    }
    uint8_t kind = *p++;
    uint64_t key_bytes = 0, value_bytes = 0;
    bool put = kind == '+';
    if ((!put && kind != '-' && kind != '=') || !plain_number(&p, colon + 1, put ? ',' : ':', &key_bytes) ||
        (put && !plain_number(&p, colon + 1, ':', &value_bytes)) || p != colon + 1) {
        return STREAM_BAD;
    }
    if (key_bytes > (kind == '=' ? LIMIT_CURSOR_BYTES : LIMIT_KEY_BYTES) || value_bytes > STREAM_VALUE_BYTES_MAX) {
        return STREAM_BAD;
    }
    uint64_t bytes = key_bytes + (put ? 2 + value_bytes : 0) + 1;
    if (bytes > (uint64_t)(end - p)) {
        return STREAM_CUT;
    }
    if (p[bytes - 1] != '\n' || (put && (p[key_bytes] != '-' || p[key_bytes + 1] != '>'))) {
        return STREAM_BAD;
    }
    ret_record->kind = put ? STREAM_PUT : kind == '-' ? STREAM_DELETE : STREAM_COMMIT;
    ret_record->key = (struct pleat_slice){p, (size_t)key_bytes};
    ret_record->value = (struct pleat_slice){p + key_bytes + (put ? 2 : 0), (size_t)value_bytes};
    *data = p + bytes;
    return STREAM_RECORD;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    stream_check(data, size, STREAM_FRAMED, plain_frame);
    return 0;
}
