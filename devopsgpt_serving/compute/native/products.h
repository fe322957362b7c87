// Matrix products with weights laid out once, in one of three number formats.
//
// Weights lie in panels of two registers of outputs; in a panel, every output's next GROUP inputs lie together, so that
// one instruction multiplies a register of outputs by a token's inputs. A token's sums are taken in the order of its
// inputs whatever tokens stand beside it, so a sequence's numbers do not depend on what else is in the batch.
#pragma once

#include "vectors.h"

struct Matrix {
    const uint8_t *weight;  // (panels, in / GROUP, PANEL, GROUP)
    const float *scale;     // (panels * PANEL,) in int8
    const float *bias;      // (panels * PANEL,)
    int64_t in, out;
};

constexpr int PANEL = 2 * REGISTER;

// Tokens as a product takes them. Room for `tokens` of up to `width` inputs.
struct Inputs {
    int32_t *words;  // (tokens, ROWS, in / GROUP)
    float *scale;    // (tokens,) in int8
    int32_t *begin;  // (tokens, ROWS) in int8 with AVX-512

    void take(int64_t token, const float *x, int64_t in);  // one token's activations into this format; x: (in,)
};

// Each has GROUP and ROWS, the types Sum, Weights and Word, BYTES (of a register of outputs, their next inputs),
// load_weights, spread_word, first_sum, add_products, Inputs::take, and total: a register of outputs from its sums.
#if defined(FORMAT_INT8) && defined(__AVX512F__)
#include "int8_avx512.h"
#elif defined(FORMAT_INT8)
#include "int8_avx2.h"
#elif defined(FORMAT_BFLOAT16)
#include "bfloat16.h"
#else
#include "float32.h"
#endif

constexpr int MOST_TOKENS = SUMS / 2 / ROWS;  // in a tile
constexpr int AHEAD = 2048;                   // bytes; a token alone waits for nothing but weights

// Some tokens times one panel. y: (TOKENS, PANEL)
template <int TOKENS>
void multiply_tile(const Matrix &matrix, int64_t panel, const Inputs &inputs, int64_t token, float *y) {
    const int64_t steps = matrix.in / GROUP;
    const uint8_t *weights = matrix.weight + panel * steps * 2 * BYTES;
    const int32_t *words = inputs.words + token * ROWS * steps;
    Sum sums[TOKENS * ROWS][2];
#pragma GCC unroll 12
    for (int row = 0; row < TOKENS * ROWS; row++) sums[row][0] = sums[row][1] = first_sum(inputs, token * ROWS + row);
    for (int64_t step = 0; step < steps; step++, weights += 2 * BYTES) {
        const Weights left = load_weights(weights), right = load_weights(weights + BYTES);
        for (int line = 0; line < 2 * BYTES; line += 64) _mm_prefetch((const char *)weights + AHEAD + line, _MM_HINT_T1);
#pragma GCC unroll 12
        for (int row = 0; row < TOKENS * ROWS; row++) {
            const Word word = spread_word(words[row * steps + step]);
            sums[row][0] = add_products(sums[row][0], left, word);
            sums[row][1] = add_products(sums[row][1], right, word);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < TOKENS; i++)
        for (int half = 0; half < 2; half++) {
            const int64_t output = panel * PANEL + half * REGISTER;
            const Register without_bias = total(matrix, inputs, output, token + i, sums + i * ROWS, half);
            store_register(y + i * PANEL + half * REGISTER, without_bias + load_register(matrix.bias + output));
        }
}

template <int TOKENS>
inline void multiply_tile(int tokens, const Matrix &m, int64_t panel, const Inputs &inputs, int64_t token, float *y) {
    if (tokens == TOKENS) return multiply_tile<TOKENS>(m, panel, inputs, token, y);
    if constexpr (TOKENS > 1) multiply_tile<TOKENS - 1>(tokens, m, panel, inputs, token, y);
}

inline int64_t panels_of(const Matrix &matrix) { return (matrix.out + PANEL - 1) / PANEL; }

// All tokens times some panels. put(token, first output, how many there are from it on, 16 values)
template <typename Put>
inline void multiply(const Matrix &matrix, const Inputs &inputs, int64_t tokens, int64_t panel, int64_t end, const Put &put) {
    const int64_t tiles = (tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    alignas(64) float y[MOST_TOKENS * PANEL];
    for (; panel < end; panel++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = tokens * tile / tiles, last = tokens * (tile + 1) / tiles;
            multiply_tile<MOST_TOKENS>((int)(last - first), matrix, panel, inputs, first, y);
            for (int64_t i = 0; i < last - first; i++)
                for (int64_t at = 0; at < PANEL; at += LANES) {
                    const int64_t output = panel * PANEL + at;
                    if (output >= matrix.out) break;
                    put(first + i, output, matrix.out - output, load(y + i * PANEL + at));
                }
        }
}
