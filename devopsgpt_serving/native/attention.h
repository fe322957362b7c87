// Attention of single tokens to what their rows of the cache hold.
//
// Keys lie in panels of 16 positions, (row, head, panel, dimension, 16), so that one instruction takes 16 scores a
// dimension further; values lie as (row, head, position, dimension).
#pragma once

#include "vectors.h"

struct Heads {
    int64_t heads, width, places;  // width: dimensions of a head; places: positions of a row, a multiple of 16
};

// Where a row's head begins, among keys or values.
inline Stored *head_of(Stored *all, const Heads &of, int64_t row, int64_t head) {
    return all + (row * of.heads + head) * of.places * of.width;
}

// Write a token's keys and values, (heads * width,) each, to a position of a row.
inline void remember(const Heads &of, const float *k, const float *v, Stored *keys, Stored *values, int64_t row, int64_t at) {
    for (int64_t head = 0; head < of.heads; head++) {
        Stored *panel = head_of(keys, of, row, head) + at / LANES * LANES * of.width + at % LANES;
        Stored *value = head_of(values, of, row, head) + at * of.width;
        for (int64_t d = 0; d < of.width; d += LANES) {
            Stored halves[LANES];
            store(halves, _mm512_loadu_ps(k + head * of.width + d));
            for (int i = 0; i < LANES; i++) panel[(d + i) * LANES] = halves[i];
            store(value + d, _mm512_loadu_ps(v + head * of.width + d));
        }
    }
}

// One token's attention with one head. q, y: (width,); keys, values: of the row and head; scores: room for length + 15
template <int VECTORS>
inline void attend(const float *q, const Stored *keys, const Stored *values, int64_t length, float *scores, float *y) {
    constexpr int WIDTH = VECTORS * LANES;
    const float root = 1.0f / __builtin_sqrtf((float)WIDTH);
    __m512 largest = _mm512_set1_ps(-__builtin_inff());
    for (int64_t at = 0; at < length; at += LANES, keys += WIDTH * LANES) {
        __m512 sums[4] = {};
        for (int d = 0; d < WIDTH; d += 4) {
            // heads are too short for the processor to notice the pattern: ask for the keys of two panels further,
            // and for the values of these positions
            for (int line = 0; line < 4 * (int)sizeof(Stored) * LANES; line += 64) {
                _mm_prefetch((const char *)(keys + (2 * WIDTH + d) * LANES) + line, _MM_HINT_T0);
                _mm_prefetch((const char *)(values + at * WIDTH + d * LANES) + line, _MM_HINT_T0);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                sums[i] = _mm512_fmadd_ps(load_stored(keys + (d + i) * LANES), _mm512_set1_ps(q[d + i]), sums[i]);
        }
        __m512 score = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        score = _mm512_mul_ps(score, _mm512_set1_ps(root));
        score = _mm512_mask_blend_ps(first_lanes(length - at), _mm512_set1_ps(-__builtin_inff()), score);
        largest = _mm512_max_ps(largest, score);
        store(scores + at, score);
    }
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    __m512 total = _mm512_setzero_ps();
    for (int64_t at = 0; at < length; at += LANES) {
        const __m512 share = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + at), most));
        total = _mm512_add_ps(total, _mm512_maskz_mov_ps(first_lanes(length - at), share));
        store(scores + at, share);
    }
    const __m512 whole = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
    __m512 values_sum[VECTORS] = {};
    for (int64_t at = 0; at < length; at++, values += WIDTH)
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS; i++)
            values_sum[i] = _mm512_fmadd_ps(load_stored(values + i * LANES), _mm512_set1_ps(scores[at]), values_sum[i]);
    for (int i = 0; i < VECTORS; i++) store(y + i * LANES, _mm512_mul_ps(values_sum[i], whole));
}

template <int VECTORS = 8>
inline void attend(int64_t width, const float *q, const Stored *keys, const Stored *values, int64_t length, float *scores, float *y) {
    if (width == VECTORS * LANES) return attend<VECTORS>(q, keys, values, length, scores, y);
    if constexpr (VECTORS > 1) attend<VECTORS - 1>(width, q, keys, values, length, scores, y);
}
