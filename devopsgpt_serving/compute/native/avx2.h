// Vectors of 16 floats in two registers of AVX2. vectors.h tells what each function is for.
#pragma once

#include <immintrin.h>

#include <cstdint>

struct Floats {
    __m256 low, high;
};
using Register = __m256;
constexpr int REGISTER = 8;  // floats in it
constexpr int SUMS = 12;     // registers of 16 that hold the sums of a product

inline Floats operator+(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
inline Floats operator-(Floats a, Floats b) { return {a.low - b.low, a.high - b.high}; }
inline Floats operator*(Floats a, Floats b) { return {a.low * b.low, a.high * b.high}; }
inline Floats operator/(Floats a, Floats b) { return {a.low / b.low, a.high / b.high}; }

// All bits set in the first lanes of eight.
inline __m256i first_lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Floats spread(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats load(const uint16_t *from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}
inline Floats load_first(const float *from, int64_t count) {
    if (count >= 16) return load(from);
    return {_mm256_maskload_ps(from, first_lanes(count)), _mm256_maskload_ps(from + 8, first_lanes(count - 8))};
}

inline void store(float *to, Floats x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}
inline void store(uint16_t *to, Floats x) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(to + 8), _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_first(float *to, int64_t count, Floats x) {
    if (count >= 16) return store(to, x);
    _mm256_maskstore_ps(to, first_lanes(count), x.low);
    _mm256_maskstore_ps(to + 8, first_lanes(count - 8), x.high);
}

inline Floats first_or(Floats x, int64_t count, Floats otherwise) {
    if (count >= 16) return x;
    return {_mm256_blendv_ps(otherwise.low, x.low, (__m256)first_lanes(count)),
            _mm256_blendv_ps(otherwise.high, x.high, (__m256)first_lanes(count - 8))};
}

inline Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats smaller(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats magnitude(Floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Floats nearest(Floats x) {
    constexpr int HOW = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.low, HOW), _mm256_round_ps(x.high, HOW)};
}
inline __m256 power_of_2(__m256 power) {  // of whole numbers from -126 to 127: the exponent of a float
    return (__m256)_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127)), 23);
}
inline Floats times_power_of_2(Floats x, Floats power) {
    return {x.low * power_of_2(power.low), x.high * power_of_2(power.high)};
}
inline float sum(Floats x) {
    const __m256 eight = x.low + x.high;
    __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    four = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(four) + _mm_cvtss_f32(_mm_movehdup_ps(four));
}
inline float largest(Floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline Register spread_register(float x) { return _mm256_set1_ps(x); }
inline Register spread_bits(int32_t bits) { return (__m256)_mm256_set1_epi32(bits); }
inline Register load_register(const float *from) { return _mm256_loadu_ps(from); }
inline void store_register(float *to, Register x) { _mm256_storeu_ps(to, x); }
inline Register multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
