// 8-bit weights, kept as unsigned bytes around 128, times 16-bit activations, taken as two signed bytes: two rows of
// one product that reads the weights once. Sums of products are exact integers.
#pragma once

constexpr int GROUP = 4, ROWS = 2, BYTES = 64;
constexpr float LEVELS = 32512.0f;  // 127 * 256: largest magnitude of an activation, so that its upper byte fits

using Sum = __m512i;
using Weights = __m512i;
using Word = __m512i;

inline Weights load_weights(const uint8_t *from) { return _mm512_loadu_si512(from); }
inline Word spread_word(int32_t word) { return _mm512_set1_epi32(word); }

// -128 * the sum of a row takes the weights' offset of 128 back
inline Sum first_sum(const Inputs &inputs, int64_t row) { return _mm512_set1_epi32(inputs.begin[row]); }

inline Sum add_products(Sum sum, Weights weights, Word inputs) {
    // the intrinsic has GCC 12 copy each sum before and after
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
}

inline Register total(const Matrix &matrix, const Inputs &inputs, int64_t output, int64_t token, const Sum (*rows)[2], int half) {
    const __m512 upper = _mm512_cvtepi32_ps(rows[0][half]), lower = _mm512_cvtepi32_ps(rows[1][half]);
    const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(matrix.scale + output), _mm512_set1_ps(inputs.scale[token]));
    return _mm512_mul_ps(_mm512_fmadd_ps(upper, _mm512_set1_ps(256.0f), lower), scale);
}

inline void Inputs::take(int64_t token, const float *x, int64_t in) {
    int8_t *to = (int8_t *)(words + token * ROWS * (in / GROUP));
    const auto [most, strange] = largest_magnitude(x, in);
    scale[token] = most / LEVELS + strange;
    const __m512 steps = _mm512_set1_ps(LEVELS / most);
    __m512i uppers = _mm512_setzero_si512(), levels = _mm512_setzero_si512();
    for (int64_t i = 0; i < in; i += LANES) {
        const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), steps));
        const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(level, _mm512_set1_epi32(128)), 8);
        _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(upper));
        _mm_storeu_si128((__m128i *)(to + in + i), _mm512_cvtepi32_epi8(level));
        uppers = _mm512_add_epi32(uppers, upper);
        levels = _mm512_add_epi32(levels, _mm512_sub_epi32(level, _mm512_slli_epi32(upper, 8)));
    }
    begin[2 * token] = -128 * _mm512_reduce_add_epi32(uppers);
    begin[2 * token + 1] = -128 * _mm512_reduce_add_epi32(levels);
}
