// Matrix products with weights laid out once, in one of three number formats.
//
// Weights lie in panels of 32 outputs; in a panel, every 4 bytes are one output's next GROUP inputs, so that one
// instruction multiplies 16 outputs' by a token's. A token's sums are taken in the order of its inputs whatever
// tokens stand beside it, so a sequence's numbers do not depend on what else is in the batch.
#pragma once

#include "vectors.h"

struct Matrix {
    const uint8_t *weight;  // (panels, in / GROUP, 32, GROUP)
    const float *scale;     // (panels * 32,) in int8
    const float *bias;      // (panels * 32,)
    int64_t in, out;
};

constexpr int PANEL = 2 * LANES;

#if defined(FORMAT_INT8)
// 8-bit weights, kept as unsigned bytes around 128, times 16-bit activations, taken as two signed bytes: two rows of
// one product that reads the weights once. Sums of products are exact integers.
constexpr int GROUP = 4, ROWS = 2;
constexpr float LEVELS = 32512.0f;  // 127 * 256: largest magnitude of an activation, so that its upper byte fits
using Sum = __m512i;
inline Sum add_products(Sum sum, __m512i weights, __m512i inputs) {
    // the intrinsic has GCC 12 copy each sum before and after
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
}
#elif defined(FORMAT_BFLOAT16)
constexpr int GROUP = 2, ROWS = 1;
using Sum = __m512;
inline Sum add_products(Sum sum, __m512i weights, __m512i inputs) {
    // the intrinsic has GCC 12 copy each sum before and after
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
}
#else
constexpr int GROUP = 1, ROWS = 1;
using Sum = __m512;
inline Sum add_products(Sum sum, __m512i weights, __m512i inputs) {
    return _mm512_fmadd_ps((__m512)weights, (__m512)inputs, sum);
}
#endif

constexpr int MOST_TOKENS = 12 / ROWS;  // in a tile: 24 of 32 registers hold sums
constexpr int AHEAD = 2048;             // bytes; a token alone waits for nothing but weights

// Tokens as a product takes them. Room for `tokens` of up to `width` inputs.
struct Inputs {
    int32_t *words;  // (tokens, ROWS, in / GROUP)
    float *scale;    // (tokens,) in int8
    int32_t *begin;  // (tokens, ROWS): -128 * the sum of a row, which takes the weights' offset of 128 back

    Sum first_sum(int64_t row) const {
#if defined(FORMAT_INT8)
        return _mm512_set1_epi32(begin[row]);
#else
        return _mm512_setzero_ps();
#endif
    }

    // One token's activations into this format. x: (in,)
    void take(int64_t token, const float *x, int64_t in) {
        int32_t *to = words + token * ROWS * (in / GROUP);
#if defined(FORMAT_INT8)
        __m512 largest = _mm512_set1_ps(1e-12f), strange = _mm512_setzero_ps();
        for (int64_t i = 0; i < in; i += LANES) {
            const __m512 each = _mm512_loadu_ps(x + i);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(each));
            strange = _mm512_fmadd_ps(each, _mm512_setzero_ps(), strange);  // not 0 where x is not finite
        }
        const float most = _mm512_reduce_max_ps(largest);
        scale[token] = most / LEVELS + _mm512_reduce_add_ps(strange);
        const __m512 steps = _mm512_set1_ps(LEVELS / most);
        __m512i uppers = _mm512_setzero_si512(), levels = _mm512_setzero_si512();
        for (int64_t i = 0; i < in; i += LANES) {
            const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), steps));
            const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(level, _mm512_set1_epi32(128)), 8);
            _mm_storeu_si128((__m128i *)((int8_t *)to + i), _mm512_cvtepi32_epi8(upper));
            _mm_storeu_si128((__m128i *)((int8_t *)to + in + i), _mm512_cvtepi32_epi8(level));
            uppers = _mm512_add_epi32(uppers, upper);
            levels = _mm512_add_epi32(levels, _mm512_sub_epi32(level, _mm512_slli_epi32(upper, 8)));
        }
        begin[2 * token] = -128 * _mm512_reduce_add_epi32(uppers);
        begin[2 * token + 1] = -128 * _mm512_reduce_add_epi32(levels);
#elif defined(FORMAT_BFLOAT16)
        for (int64_t i = 0; i < in; i += LANES)
            _mm256_storeu_si256((__m256i *)((uint16_t *)to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
#else
        for (int64_t i = 0; i < in; i += LANES) store((float *)to + i, _mm512_loadu_ps(x + i));
#endif
    }
};

// Some tokens times one panel. y: (TOKENS, 32)
template <int TOKENS>
void multiply_tile(const Matrix &matrix, int64_t panel, const Inputs &inputs, int64_t token, float *y) {
    const int64_t steps = matrix.in / GROUP;
    const uint8_t *weights = matrix.weight + panel * steps * PANEL * 4;
    const int32_t *words = inputs.words + token * ROWS * steps;
    Sum sums[TOKENS * ROWS][2];
#pragma GCC unroll 12
    for (int row = 0; row < TOKENS * ROWS; row++) sums[row][0] = sums[row][1] = inputs.first_sum(token * ROWS + row);
    for (int64_t step = 0; step < steps; step++, weights += PANEL * 4) {
        const __m512i left = _mm512_loadu_si512(weights), right = _mm512_loadu_si512(weights + 64);
        _mm_prefetch((const char *)weights + AHEAD, _MM_HINT_T1);
        _mm_prefetch((const char *)weights + AHEAD + 64, _MM_HINT_T1);
#pragma GCC unroll 12
        for (int row = 0; row < TOKENS * ROWS; row++) {
            const __m512i word = _mm512_set1_epi32(words[row * steps + step]);
            sums[row][0] = add_products(sums[row][0], left, word);
            sums[row][1] = add_products(sums[row][1], right, word);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < TOKENS; i++)
        for (int half = 0; half < 2; half++) {
            const int64_t output = panel * PANEL + half * LANES;
#if defined(FORMAT_INT8)
            const __m512 upper = _mm512_cvtepi32_ps(sums[2 * i][half]), lower = _mm512_cvtepi32_ps(sums[2 * i + 1][half]);
            const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(matrix.scale + output), _mm512_set1_ps(inputs.scale[token + i]));
            const __m512 sum = _mm512_mul_ps(_mm512_fmadd_ps(upper, _mm512_set1_ps(256.0f), lower), scale);
#else
            const __m512 sum = sums[i][half];
#endif
            store(y + i * PANEL + half * LANES, _mm512_add_ps(sum, _mm512_loadu_ps(matrix.bias + output)));
        }
}

template <int TOKENS>
inline void multiply_tile(int tokens, const Matrix &m, int64_t panel, const Inputs &inputs, int64_t token, float *y) {
    if (tokens == TOKENS) return multiply_tile<TOKENS>(m, panel, inputs, token, y);
    if constexpr (TOKENS > 1) multiply_tile<TOKENS - 1>(tokens, m, panel, inputs, token, y);
}

inline int64_t panels_of(const Matrix &matrix) { return (matrix.out + PANEL - 1) / PANEL; }

// All tokens times some panels. put(token, first output, which of 16 there are, 16 values)
template <typename Put>
inline void multiply(const Matrix &matrix, const Inputs &inputs, int64_t tokens, int64_t panel, int64_t end, const Put &put) {
    const int64_t tiles = (tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    alignas(64) float y[MOST_TOKENS * PANEL];
    for (; panel < end; panel++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = tokens * tile / tiles, last = tokens * (tile + 1) / tiles;
            multiply_tile<MOST_TOKENS>((int)(last - first), matrix, panel, inputs, first, y);
            for (int64_t i = 0; i < last - first; i++)
                for (int64_t half = 0; half < PANEL; half += LANES) {
                    const int64_t output = panel * PANEL + half;
                    if (output >= matrix.out) break;
                    put(first + i, output, first_lanes(matrix.out - output), _mm512_loadu_ps(y + i * PANEL + half));
                }
        }
}
