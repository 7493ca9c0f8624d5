// Exponentials of floats, inlined: torch's are calls of a library, around which all vector registers are spilled. Within 2 units in
// the last place for all floats; overflow, subnormal results, infinities and NaN as they should be. exp(x) = 2^n exp(r), where n is
// a multiple of 1 / 16 (1 / 8 with AVX2), whose fraction selects from a table, and exp(r) is a cubic. A number alone is a lane of a
// vector: its bits do not depend on where it lies.
namespace funcebm {

template <typename T>
inline T exp(const T& x) {
    if constexpr (std::is_arithmetic_v<T>) return std::exp(x);
    else return x.exp();
}
template <typename T>
inline T expm1(const T& x) {
    if constexpr (std::is_arithmetic_v<T>) return std::expm1(x);
    else return x.expm1();
}
template <typename T>
inline T tanh(const T& x) {
    if constexpr (std::is_arithmetic_v<T>) return std::tanh(x);
    else return x.tanh();
}

#if defined(CPU_CAPABILITY_AVX512) && defined(__GNUC__)  // and clang: sums and products of vectors are written as such
#define FUNCEBM_HAS_LANES
typedef __m512 Lanes;
static inline Lanes all(float x) { return _mm512_set1_ps(x); }
static inline float first(Lanes x) { return _mm512_cvtss_f32(x); }
static inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
static inline Lanes fnma(Lanes a, Lanes b, Lanes c) { return _mm512_fnmadd_ps(a, b, c); }
static inline Lanes smaller(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }  // b where it is NaN
static inline Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
// x 2^floor(n)
static inline Lanes scaled(Lanes x, Lanes n) { return _mm512_scalef_ps(x, n); }
// for large, infinite and NaN x the power of two decides, if r is any number near 0
static inline Lanes usable(Lanes x) { return x; }
static inline Lanes bounded(Lanes r) { return _mm512_range_ps(r, all(1.0f), 6); }
static const float parts = 16, quadratic = 0.5000162f, cubic = 0.16667052f;
alignas(64) static const float roots[16] = {
    1.0f,        1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f, 1.29683959f, 1.35425556f,
    1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f, 1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};
static inline Lanes root(Lanes of) { return _mm512_permutexvar_ps(_mm512_castps_si512(of), _mm512_load_ps(roots)); }
static inline Lanes magnitude(Lanes x) { return _mm512_abs_ps(x); }
static inline Lanes with_sign(Lanes x, Lanes of) {
    const __m512i bit = _mm512_set1_epi32(0x80000000);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bit, _mm512_castps_si512(of), _mm512_castps_si512(x), 0xca));
}
static inline Lanes where_less(Lanes x, Lanes y, Lanes a, Lanes b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
#elif defined(CPU_CAPABILITY_AVX2) && defined(__GNUC__)
#define FUNCEBM_HAS_LANES
typedef __m256 Lanes;
static inline Lanes all(float x) { return _mm256_set1_ps(x); }
static inline float first(Lanes x) { return _mm256_cvtss_f32(x); }
static inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
static inline Lanes fnma(Lanes a, Lanes b, Lanes c) { return _mm256_fnmadd_ps(a, b, c); }
static inline Lanes smaller(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }  // b where it is NaN
static inline Lanes larger(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
// x 2^floor(n), in two steps, since the power itself may be no normal number
static inline Lanes scaled(Lanes x, Lanes n) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_floor_ps(n)), half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127), one = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i other = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(one)), _mm256_castsi256_ps(other));
}
// large and infinite x are as good as these; NaN stays
static inline Lanes usable(Lanes x) { return larger(all(-104.0f), smaller(all(89.0f), x)); }
static inline Lanes bounded(Lanes r) { return r; }
static const float parts = 8, quadratic = 0.50006485f, cubic = 0.16668233f;
alignas(32) static const float roots[8] = {1.0f,        1.09050775f, 1.18920708f, 1.29683959f,
                                           1.41421354f, 1.54221082f, 1.68179286f, 1.8340081f};
static inline Lanes root(Lanes of) { return _mm256_permutevar8x32_ps(_mm256_load_ps(roots), _mm256_castps_si256(of)); }
static inline Lanes magnitude(Lanes x) { return _mm256_andnot_ps(all(-0.0f), x); }
static inline Lanes with_sign(Lanes x, Lanes of) { return _mm256_or_ps(magnitude(x), _mm256_and_ps(all(-0.0f), of)); }
static inline Lanes where_less(Lanes x, Lanes y, Lanes a, Lanes b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
#endif

#ifdef FUNCEBM_HAS_LANES
// the r of x = n log(2) + r, where n = sum - shift is a multiple of 1 / of: a sum with a large number is rounded
static inline Lanes reduced(Lanes x, float of, Lanes& sum, Lanes& n) {
    const Lanes shift = all(12582912.0f / of);  // 1.5 x 2^23 / of
    sum = fma(x, all(1.44269504f), shift);
    n = sum - shift;
    return fnma(n, all(-1.90465421e-9f), fnma(n, all(0.693147182f), x));
}

static inline Lanes exp_of(Lanes x) {
    Lanes sum, n;
    const Lanes r = bounded(reduced(usable(x), parts, sum, n)), power = root(sum);
    const Lanes less_one = fma(fma(r, all(cubic), all(quadratic)) * r, r, r);
    return scaled(fma(power, less_one, power), n);
}

// exp(x) - 1 = 2^n (exp(r) - 1 + 1 - 2^-n), without a table: what it rounds would be a large part of a small difference
static inline Lanes expm1_of(Lanes x) {
    Lanes sum, n;
    const Lanes r = reduced(larger(all(-87.0f), smaller(all(89.0f), x)), 1.0f, sum, n);
    Lanes p = fma(r, all(0.00138145406f), all(0.00836874545f));
    p = fma(p, r, all(0.041668389f));
    p = fma(p, r, all(0.166665211f));
    p = fma(p, r, all(0.49999994f));
    return scaled(fma(p * r, r, r) + (all(1.0f) - scaled(all(1.0f), -n)), n);
}

static inline Lanes tanh_of(Lanes x) {
    const Lanes size = magnitude(x), square = x * x;
    Lanes p = fma(square, all(-0.0055151619f), all(0.0204694178f));
    p = fma(p, square, all(-0.0536880232f));
    p = fma(p, square, all(0.133308306f));
    p = fma(p, square, all(-0.333332598f));
    const Lanes near = fma(p * square, size, size);
    const Lanes far = all(1.0f) - all(2.0f) / (all(1.0f) + exp_of(size + size));
    return with_sign(where_less(size, all(0.625f), near, far), x);
}

typedef at::vec::Vectorized<float> Floats;
template <> inline Floats exp(const Floats& x) { return exp_of(x); }
template <> inline Floats expm1(const Floats& x) { return expm1_of(x); }
template <> inline Floats tanh(const Floats& x) { return tanh_of(x); }
template <> inline float exp(const float& x) { return first(exp_of(all(x))); }
template <> inline float expm1(const float& x) { return first(expm1_of(all(x))); }
template <> inline float tanh(const float& x) { return first(tanh_of(all(x))); }
#endif

}  // namespace funcebm
