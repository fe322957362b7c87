// bfloat16 weights and activations, sums in float32: AVX-512 with its instructions for bfloat16.
#pragma once

constexpr int GROUP = 2, ROWS = 1, BYTES = 64;

using Sum = __m512;
using Weights = __m512i;
using Word = __m512i;

inline Weights load_weights(const uint8_t *from) { return _mm512_loadu_si512(from); }
inline Word spread_word(int32_t word) { return _mm512_set1_epi32(word); }
inline Sum first_sum(const Inputs &, int64_t) { return _mm512_setzero_ps(); }
inline Sum add_products(Sum sum, Weights weights, Word inputs) {
    // the intrinsic has GCC 12 copy each sum before and after
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
}
inline Register total(const Matrix &, const Inputs &, int64_t, int64_t, const Sum (*rows)[2], int half) {
    return rows[0][half];
}

inline void Inputs::take(int64_t token, const float *x, int64_t in) {
    uint16_t *to = (uint16_t *)(words + token * (in / GROUP));
    for (int64_t i = 0; i < in; i += LANES)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
}
