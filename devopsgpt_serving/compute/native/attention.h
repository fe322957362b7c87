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
            store(halves, load(k + head * of.width + d));
            for (int i = 0; i < LANES; i++) panel[(d + i) * LANES] = halves[i];
            store(value + d, load(v + head * of.width + d));
        }
    }
}

// One token's attention with one head. q, y: (width,); keys, values: of the row and head; scores: room for length + 15
template <int VECTORS>
inline void attend(const float *q, const Stored *keys, const Stored *values, int64_t length, float *scores, float *y) {
    constexpr int WIDTH = VECTORS * LANES;
    const float root = 1.0f / __builtin_sqrtf((float)WIDTH);
    Floats most = spread(-__builtin_inff());
    for (int64_t at = 0; at < length; at += LANES, keys += WIDTH * LANES) {
        Floats sums[4] = {};
        for (int d = 0; d < WIDTH; d += 4) {
            // heads are too short for the processor to notice the pattern: ask for the keys of two panels further,
            // and for the values of these positions
            for (int line = 0; line < 4 * (int)sizeof(Stored) * LANES; line += 64) {
                _mm_prefetch((const char *)(keys + (2 * WIDTH + d) * LANES) + line, _MM_HINT_T0);
                _mm_prefetch((const char *)(values + at * WIDTH + d * LANES) + line, _MM_HINT_T0);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                sums[i] = multiply_add(load(keys + (d + i) * LANES), spread(q[d + i]), sums[i]);
        }
        const Floats score = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * spread(root);
        const Floats seen = first_or(score, length - at, spread(-__builtin_inff()));
        most = larger(most, seen);
        store(scores + at, seen);
    }
    const Floats highest = spread(largest(most));
    Floats total = spread(0.0f);
    for (int64_t at = 0; at < length; at += LANES) {
        const Floats share = exponential(load(scores + at) - highest);
        total = total + first_or(share, length - at, spread(0.0f));
        store(scores + at, share);
    }
    const Floats whole = spread(1.0f / sum(total));
    Floats values_sum[VECTORS] = {};
    for (int64_t at = 0; at < length; at++, values += WIDTH)
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS; i++)
            values_sum[i] = multiply_add(load(values + i * LANES), spread(scores[at]), values_sum[i]);
    for (int i = 0; i < VECTORS; i++) store(y + i * LANES, values_sum[i] * whole);
}

template <int VECTORS = 8>
inline void attend(int64_t width, const float *q, const Stored *keys, const Stored *values, int64_t length, float *scores, float *y) {
    if (width == VECTORS * LANES) return attend<VECTORS>(q, keys, values, length, scores, y);
    if constexpr (VECTORS > 1) attend<VECTORS - 1>(width, q, keys, values, length, scores, y);
}
