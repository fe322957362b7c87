// 8-bit weights times activations of up to 16 bits. AVX2 multiplies bytes into sums of 16 bits, which overflow, so
// weights are widened to 16 bits when they are read. Sums of products are exact integers.
#pragma once

constexpr int GROUP = 2, ROWS = 1, BYTES = 16;

using Sum = __m256i;
using Weights = __m256i;
using Word = __m256i;

inline Weights load_weights(const uint8_t *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)); }
inline Word spread_word(int32_t word) { return _mm256_set1_epi32(word); }
inline Sum first_sum(const Inputs &, int64_t) { return _mm256_setzero_si256(); }
inline Sum add_products(Sum sum, Weights weights, Word inputs) {
    // with the intrinsics GCC 12 multiplies for all tokens first, and has no registers left for their sums
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(weights), "x"(inputs));
    return sum;
}

inline Register total(const Matrix &matrix, const Inputs &inputs, int64_t output, int64_t token, const Sum (*rows)[2], int half) {
    const __m256 scale = _mm256_loadu_ps(matrix.scale + output) * _mm256_set1_ps(inputs.scale[token]);
    return _mm256_cvtepi32_ps(rows[0][half]) * scale;
}

inline void Inputs::take(int64_t token, const float *x, int64_t in) {
    int16_t *to = (int16_t *)(words + token * (in / GROUP));
    const auto [most, strange] = largest_magnitude(x, in);
    // so that a sum of `in` products with weights of up to 127 stays below 2^31: 22,016 for 768 inputs, 5,504 for 3,072
    const float levels = 16909320.0f / in < 32767.0f ? __builtin_floorf(16909320.0f / in) : 32767.0f;
    scale[token] = most / levels + strange;
    const __m256 steps = _mm256_set1_ps(levels / most);
    for (int64_t i = 0; i < in; i += LANES) {
        const __m256i low = _mm256_cvtps_epi32(_mm256_loadu_ps(x + i) * steps);
        const __m256i high = _mm256_cvtps_epi32(_mm256_loadu_ps(x + i + 8) * steps);
        const __m256i mixed = _mm256_packs_epi32(low, high);  // fours of low, high, low, high
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_permute4x64_epi64(mixed, 0xd8));
    }
}
