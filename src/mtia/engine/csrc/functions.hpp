// Mathematical functions of float32, defined here so that the interpreter and the native executor give the same bits on
// every machine. All but exp are evaluated in double by a polynomial and rounded once (error below 0.51 ulp); exp is
// evaluated in float with fused multiply-adds (below 1 ulp). Every function is free of branches, so loops over it
// become vector code. Accuracy is held by tests/engine/functional/test_native_functions.py against float64.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace mtia {

inline uint32_t bits_of(float x) {
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}
inline uint64_t bits_of(double x) {
    uint64_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}
inline float from_bits(uint32_t u) {
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}
inline double from_bits(uint64_t u) {
    double x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

// Adding and taking off 1.5 * 2^23 (2^52) rounds to the nearest integer, which then also stands in the low bits.
constexpr float kRoundFloat = 12582912.0f;
constexpr double kRoundDouble = 6755399441055744.0;

// 2^r for |r| <= 0.5: its Taylor series, relative error 7e-12.
inline double exp2_fraction(double r) {
    double p = 7.054911620801123e-09;
    p = p * r + 1.01780860092397e-07;
    p = p * r + 1.321548679014431e-06;
    p = p * r + 1.5252733804059841e-05;
    p = p * r + 0.0001540353039338161;
    p = p * r + 0.0013333558146428443;
    p = p * r + 0.009618129107628477;
    p = p * r + 0.05550410866482158;
    p = p * r + 0.24022650695910072;
    p = p * r + 0.6931471805599453;
    return p * r + 1.0;
}

// 2^t, zero or infinite (as a float) beyond +-1000; NaN for NaN.
inline double exp2_double(double t) {
    double limited = t < -1000.0 ? -1000.0 : t;
    limited = limited > 1000.0 ? 1000.0 : limited;
    double shifted = limited + kRoundDouble;
    uint64_t n = bits_of(shifted) - bits_of(kRoundDouble);
    double scale = from_bits((uint64_t)((n + 1023) << 52));
    return exp2_fraction(limited - (shifted - kRoundDouble)) * scale;
}

constexpr double kLog2E = 1.4426950408889634;

inline double exp_double(double x) { return exp2_double(x * kLog2E); }

inline float exp2_float(float x) { return (float)exp2_double((double)x); }

inline float exp_float(float x) {
    float limited = x < -104.0f ? -104.0f : x;
    limited = limited > 89.0f ? 89.0f : limited;
    float shifted = __builtin_fmaf(limited, 1.44269504f, kRoundFloat);
    int32_t n = (int32_t)(bits_of(shifted) - bits_of(kRoundFloat));
    float k = shifted - kRoundFloat;
    float r = __builtin_fmaf(k, -0.693115234375f, limited);
    r = __builtin_fmaf(k, -3.19461849e-05f, r);
    float p = 1.0f / 5040;
    p = __builtin_fmaf(p, r, 1.0f / 720);
    p = __builtin_fmaf(p, r, 1.0f / 120);
    p = __builtin_fmaf(p, r, 1.0f / 24);
    p = __builtin_fmaf(p, r, 1.0f / 6);
    p = __builtin_fmaf(p, r, 0.5f);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    int32_t half = n >> 1;  // in two steps: the first is exact, the second rounds once where the result is subnormal
    float first = from_bits((uint32_t)(half + 127) << 23), second = from_bits((uint32_t)(n - half + 127) << 23);
    float y = p * first * second;
    return x != x ? x : y;
}

// log(x) of a positive, finite, normal double.
inline double log_positive(double x) {
    constexpr uint64_t kHalfRoot = 0x3FE6A09E667F3BCDull;  // sqrt(1/2): the mantissa is taken from [sqrt 1/2, sqrt 2)
    uint64_t u = bits_of(x) - kHalfRoot;
    double exponent = (double)(int64_t)(int32_t)((int64_t)u >> 52);
    double m = from_bits((uint64_t)((u & 0xFFFFFFFFFFFFFull) + kHalfRoot));
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    p = p * z + 1.0;
    return 2.0 * s * p + exponent * 0.6931471805599453;
}

constexpr double kInfinity = __builtin_inf();
constexpr double kNan = __builtin_nan("");

// `scale` * log(x): -inf at zero, NaN below, infinity and NaN as they are.
inline double log_scaled(double x, double scale) {
    double y = log_positive(x > 0.0 && x < kInfinity ? x : 1.0) * scale;
    y = x == 0.0 ? -kInfinity : y;
    y = x < 0.0 ? kNan : y;
    return x == kInfinity || x != x ? x : y;
}

inline float log_float(float x) { return (float)log_scaled(x, 1.0); }
inline float log2_float(float x) { return (float)log_scaled(x, kLog2E); }
inline float log10_float(float x) { return (float)log_scaled(x, 0.4342944819032518); }

inline float log1p_float(float x) {
    double w = x, near_zero = w - w * w * (0.5 - w * (1.0 / 3));
    double y = log_scaled(1.0 + w, 1.0);
    y = w < 1e-5 && w > -1e-5 ? near_zero : y;
    return x == 0.0f ? x : (float)y;
}

inline float expm1_float(float x) {
    double w = x, near_zero = w * (1.0 + w * (0.5 + w * (1.0 / 6 + w * (1.0 / 24))));
    double y = exp_double(w) - 1.0;
    y = w < 1e-3 && w > -1e-3 ? near_zero : y;
    return x == 0.0f ? x : (float)y;
}

inline float tanh_float(float x) {
    double w = x, a = w < 0.0 ? -w : w;
    a = a > 20.0 ? 20.0 : a;
    double y = 1.0 - 2.0 / (exp_double(2.0 * a) + 1.0);
    y = w < 0.0 ? -y : y;
    y = a < 1e-4 ? w - w * w * w * (1.0 / 3) : y;
    return x == 0.0f || x != x ? x : (float)y;
}

inline float sigmoid_float(float x) { return (float)(1.0 / (1.0 + exp_double(-(double)x))); }

inline double erf_series(double x) {  // |x| <= 1
    double z = x * x;
    double p = 9.422759064650411e-11;
    p = p * z - 1.2290555301717926e-09;
    p = p * z + 1.4807192815879218e-08;
    p = p * z - 1.6365844691234924e-07;
    p = p * z + 1.6462114365889246e-06;
    p = p * z - 1.492565035840625e-05;
    p = p * z + 0.00012055332981789664;
    p = p * z - 0.0008548327023450852;
    p = p * z + 0.005223977625442188;
    p = p * z - 0.026866170645131252;
    p = p * z + 0.11283791670955126;
    p = p * z - 0.37612638903183754;
    p = p * z + 1.1283791670955126;
    return p * x;
}

// exp(x^2) erfc(x) for 1 <= x <= 4.2: Chebyshev fit of degree 12, relative error 1.4e-8.
inline double erfc_scaled(double x) {
    double u = (x - 2.6) / 1.6;
    double p = 2.30559884566916e-05;
    p = p * u - 5.869083680110462e-05;
    p = p * u + 7.68501216458866e-05;
    p = p * u - 0.00019316062789398618;
    p = p * u + 0.0005517188638517832;
    p = p * u - 0.0012945318650215473;
    p = p * u + 0.0029148130366071145;
    p = p * u - 0.006479550737841521;
    p = p * u + 0.013959382341892564;
    p = p * u - 0.029017183309412997;
    p = p * u + 0.05805696570860577;
    p = p * u - 0.11134442230381157;
    return p * u + 0.20361324775091724;
}

inline float erf_float(float x) {
    double w = x, a = w < 0.0 ? -w : w;
    double far = a > 4.2 ? 4.2 : a;
    double tail = 1.0 - exp_double(-far * far) * erfc_scaled(far);
    tail = w < 0.0 ? -tail : tail;
    double y = a < 1.0 ? erf_series(a < 1.0 ? w : 0.0) : tail;
    return x == 0.0f || x != x ? x : (float)y;
}

constexpr double kMostReduced = 1 << 20;  // arguments of sin and cos beyond it go to the C library's double functions

struct Quadrant {
    double r;    // in [-pi/4, pi/4]
    uint64_t n;  // quarter turns
};

inline Quadrant quarter_turns(double x) {
    double shifted = x * 0.6366197723675814 + kRoundDouble, k = shifted - kRoundDouble;
    return {(x - k * 1.5707963267341256) - k * 6.077100506506192e-11, bits_of(shifted) - bits_of(kRoundDouble)};
}

inline double sin_or_cos(Quadrant q) {
    double r = q.r, z = r * r;
    double s = 1.6059043836821613e-10;
    s = s * z - 2.505210838544172e-08;
    s = s * z + 2.7557319223985893e-06;
    s = s * z - 0.0001984126984126984;
    s = s * z + 0.008333333333333333;
    s = s * z - 0.16666666666666666;
    s = r + r * z * s;
    double c = -1.1470745597729725e-11;
    c = c * z + 2.08767569878681e-09;
    c = c * z - 2.755731922398589e-07;
    c = c * z + 2.48015873015873e-05;
    c = c * z - 0.001388888888888889;
    c = c * z + 0.041666666666666664;
    c = c * z - 0.5;
    c = 1.0 + z * c;
    double y = q.n & 1 ? c : s;
    return q.n & 2 ? -y : y;
}

inline float sin_float(float x) {
    float y = (float)sin_or_cos(quarter_turns((double)x));
    return x == 0.0f ? x : y;
}

inline float cos_float(float x) {
    Quadrant q = quarter_turns((double)x);
    q.n += 1;
    return (float)sin_or_cos(q);
}

}  // namespace mtia
