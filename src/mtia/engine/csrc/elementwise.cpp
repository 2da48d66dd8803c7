// Element-wise operations on arrays, one loop per operation and element type; what each computes is the definition that
// the interpreter (engine/functional/pointwise.py) and the native executor share. Names: "addf.fp32.vs": operation,
// element type, and per operand v (an array) or s (one element for all).

#include "elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "functions.hpp"

namespace mtia {
namespace {

struct Table {
    std::unordered_map<std::string, int> ids;
    std::vector<Loop> loops;
    void add(const std::string& name, Loop loop) {
        ids.emplace(name, (int)loops.size());
        loops.push_back(loop);
    }
};

template <class T> const char* kName = "";
template <> const char* kName<bool> = "i1";
template <> const char* kName<int8_t> = "i8";
template <> const char* kName<int16_t> = "i16";
template <> const char* kName<int32_t> = "i32";
template <> const char* kName<int64_t> = "i64";
template <> const char* kName<float> = "fp32";
template <> const char* kName<double> = "fp64";

template <class T> std::string named(const char* op) { return std::string(op) + "." + kName<T>; }

template <class R, class T, class F>
void unary_loop(void* out, const void* a, const void*, const void*, int64_t n) {
    R* __restrict r = (R*)out;
    const T* x = (const T*)a;
    for (int64_t i = 0; i < n; ++i) r[i] = F()(x[i]);
}

template <class R, class T, class F, int SA, int SB>
void binary_loop(void* out, const void* a, const void* b, const void*, int64_t n) {
    R* __restrict r = (R*)out;
    const T *x = (const T*)a, *y = (const T*)b;
    for (int64_t i = 0; i < n; ++i) r[i] = F()(x[SA * i], y[SB * i]);
}

template <class R, class A, class T, class F, int SA, int SB, int SC>
void ternary_loop(void* out, const void* a, const void* b, const void* c, int64_t n) {
    R* __restrict r = (R*)out;
    const A* x = (const A*)a;
    const T *y = (const T*)b, *z = (const T*)c;
    for (int64_t i = 0; i < n; ++i) r[i] = F()(x[SA * i], y[SB * i], z[SC * i]);
}

template <class R, class T, class F> void unary(Table& t, const char* op) {
    t.add(named<T>(op) + ".v", unary_loop<R, T, F>);
}

template <class R, class T, class F> void binary(Table& t, const char* op) {
    std::string name = named<T>(op);
    t.add(name + ".vv", binary_loop<R, T, F, 1, 1>);
    t.add(name + ".vs", binary_loop<R, T, F, 1, 0>);
    t.add(name + ".sv", binary_loop<R, T, F, 0, 1>);
}

template <class R, class A, class T, class F> void ternary(Table& t, const char* op) {
    std::string name = named<T>(op);
    t.add(name + ".vvv", ternary_loop<R, A, T, F, 1, 1, 1>);
    t.add(name + ".vvs", ternary_loop<R, A, T, F, 1, 1, 0>);
    t.add(name + ".vsv", ternary_loop<R, A, T, F, 1, 0, 1>);
    t.add(name + ".vss", ternary_loop<R, A, T, F, 1, 0, 0>);
    t.add(name + ".svv", ternary_loop<R, A, T, F, 0, 1, 1>);
    t.add(name + ".svs", ternary_loop<R, A, T, F, 0, 1, 0>);
    t.add(name + ".ssv", ternary_loop<R, A, T, F, 0, 0, 1>);
}

#define MTIA_FUNCTION(NAME, PARAMETERS, ...) \
    struct NAME {                            \
        template <class T> auto operator() PARAMETERS const { __VA_ARGS__ } \
    }

// --- floating point ---------------------------------------------------------------------------------------------------

MTIA_FUNCTION(Add, (T a, T b), return a + b;);
MTIA_FUNCTION(Sub, (T a, T b), return a - b;);
MTIA_FUNCTION(Mul, (T a, T b), return a * b;);
MTIA_FUNCTION(Div, (T a, T b), return a / b;);
MTIA_FUNCTION(Remainder, (T a, T b), return std::fmod(a, b););
MTIA_FUNCTION(Copysign, (T a, T b), return std::copysign(a, b););
// Of two zeros the larger is the positive one, so that no order of evaluation shows.
MTIA_FUNCTION(Larger, (T a, T b), T r = a > b ? a : b; return a == b ? from_bits(bits_of(a) & bits_of(b)) : r;);
MTIA_FUNCTION(Smaller, (T a, T b), T r = a < b ? a : b; return a == b ? from_bits(bits_of(a) | bits_of(b)) : r;);
MTIA_FUNCTION(Maximum, (T a, T b), T r = Larger()(a, b); r = b != b ? b : r; return a != a ? a : r;);
MTIA_FUNCTION(Minimum, (T a, T b), T r = Smaller()(a, b); r = b != b ? b : r; return a != a ? a : r;);
MTIA_FUNCTION(MaxNumber, (T a, T b), T r = Larger()(a, b); r = b != b ? a : r; return a != a ? b : r;);
MTIA_FUNCTION(MinNumber, (T a, T b), T r = Smaller()(a, b); r = b != b ? a : r; return a != a ? b : r;);
MTIA_FUNCTION(Negate, (T a), return -a;);
MTIA_FUNCTION(Absolute, (T a), return std::fabs(a););
MTIA_FUNCTION(Sqrt, (T a), return std::sqrt(a););
MTIA_FUNCTION(ReciprocalSqrt, (T a), return (T)1 / std::sqrt(a););
MTIA_FUNCTION(Floor, (T a), return std::floor(a););
MTIA_FUNCTION(Ceil, (T a), return std::ceil(a););
MTIA_FUNCTION(Truncate, (T a), return std::trunc(a););
MTIA_FUNCTION(RoundEven, (T a), return std::nearbyint(a););
MTIA_FUNCTION(RoundAway, (T a), T sign = (T)((a > 0) - (a < 0)); return sign * std::floor(std::fabs(a) + (T)0.5););
MTIA_FUNCTION(IsNan, (T a), return (int32_t)(a != a););
MTIA_FUNCTION(IsInf, (T a), return (int32_t)(std::fabs(a) == (T)kInfinity););
MTIA_FUNCTION(IsFinite, (T a), return (int32_t)(std::fabs(a) < (T)kInfinity););
MTIA_FUNCTION(SignBit, (T a), return (int32_t)(bits_of(a) >> (8 * sizeof(T) - 1)););
MTIA_FUNCTION(Clamp, (T x, T lo, T hi), return MinNumber()(MaxNumber()(x, lo), hi););
MTIA_FUNCTION(ClampNan, (T x, T lo, T hi), return Minimum()(Maximum()(x, lo), hi););
struct MultiplyAdd {
    float operator()(float a, float b, float c) const { return (float)((double)a * b + c); }
    double operator()(double a, double b, double c) const { return a * b + c; }
};

MTIA_FUNCTION(OEq, (T a, T b), return a == b;);
MTIA_FUNCTION(OGt, (T a, T b), return a > b;);
MTIA_FUNCTION(OGe, (T a, T b), return a >= b;);
MTIA_FUNCTION(OLt, (T a, T b), return a < b;);
MTIA_FUNCTION(OLe, (T a, T b), return a <= b;);
MTIA_FUNCTION(ONe, (T a, T b), return a < b || a > b;);
MTIA_FUNCTION(UEq, (T a, T b), return !(a < b || a > b););
MTIA_FUNCTION(UGt, (T a, T b), return !(a <= b););
MTIA_FUNCTION(UGe, (T a, T b), return !(a < b););
MTIA_FUNCTION(ULt, (T a, T b), return !(a >= b););
MTIA_FUNCTION(ULe, (T a, T b), return !(a > b););
MTIA_FUNCTION(UNe, (T a, T b), return a != b;);
MTIA_FUNCTION(Ordered, (T a, T b), return a == a && b == b;);
MTIA_FUNCTION(Unordered, (T a, T b), return a != a || b != b;);

template <class T> void compare_floats(Table& t) {
    binary<bool, T, OEq>(t, "cmpf.oeq");
    binary<bool, T, OGt>(t, "cmpf.ogt");
    binary<bool, T, OGe>(t, "cmpf.oge");
    binary<bool, T, OLt>(t, "cmpf.olt");
    binary<bool, T, OLe>(t, "cmpf.ole");
    binary<bool, T, ONe>(t, "cmpf.one");
    binary<bool, T, UEq>(t, "cmpf.ueq");
    binary<bool, T, UGt>(t, "cmpf.ugt");
    binary<bool, T, UGe>(t, "cmpf.uge");
    binary<bool, T, ULt>(t, "cmpf.ult");
    binary<bool, T, ULe>(t, "cmpf.ule");
    binary<bool, T, UNe>(t, "cmpf.une");
    binary<bool, T, Ordered>(t, "cmpf.ord");
    binary<bool, T, Unordered>(t, "cmpf.uno");
}

template <class T> void floats(Table& t) {
    binary<T, T, Add>(t, "addf");
    binary<T, T, Sub>(t, "subf");
    binary<T, T, Mul>(t, "mulf");
    binary<T, T, Div>(t, "divf");
    binary<T, T, Remainder>(t, "remf");
    binary<T, T, Copysign>(t, "copysign");
    binary<T, T, Maximum>(t, "maximumf");
    binary<T, T, Minimum>(t, "minimumf");
    binary<T, T, MaxNumber>(t, "maxnumf");
    binary<T, T, MinNumber>(t, "minnumf");
    unary<T, T, Negate>(t, "negf");
    unary<T, T, Absolute>(t, "absf");
    unary<T, T, Sqrt>(t, "sqrt");
    unary<T, T, ReciprocalSqrt>(t, "rsqrt");
    unary<T, T, Floor>(t, "floor");
    unary<T, T, Ceil>(t, "ceil");
    unary<T, T, Truncate>(t, "trunc");
    unary<T, T, RoundEven>(t, "rint");
    unary<T, T, RoundAway>(t, "round");
    unary<int32_t, T, IsNan>(t, "isnan");
    unary<int32_t, T, IsInf>(t, "isinf");
    unary<int32_t, T, IsFinite>(t, "finitef");
    unary<int32_t, T, SignBit>(t, "signbit");
    ternary<T, T, T, MultiplyAdd>(t, "fma");
    ternary<T, T, T, Clamp>(t, "clampf");
    ternary<T, T, T, ClampNan>(t, "clampf_nan");
    compare_floats<T>(t);
}

// Functions of float32 with a double routine of the C library: rounded once, so nearly always the nearest float.
template <double (*F)(double)> struct ByDouble {
    float operator()(float x) const { return (float)F((double)x); }
    double operator()(double x) const { return F(x); }
};
template <double (*F)(double, double)> struct ByDouble2 {
    float operator()(float a, float b) const { return (float)F((double)a, (double)b); }
    double operator()(double a, double b) const { return F(a, b); }
};
template <float (*F)(float)> struct Native {
    float operator()(float x) const { return F(x); }
};

template <double (*F)(double)> void by_double(Table& t, const char* op) {
    unary<float, float, ByDouble<F>>(t, op);
    unary<double, double, ByDouble<F>>(t, op);
}
template <float (*F)(float), double (*D)(double)> void native(Table& t, const char* op) {
    unary<float, float, Native<F>>(t, op);
    unary<double, double, ByDouble<D>>(t, op);
}

double sigmoid_of(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// sin and cos: the vector loop, then the rare large arguments one by one.
template <float (*F)(float), double (*D)(double)>
void reduced_loop(void* out, const void* a, const void*, const void*, int64_t n) {
    float* __restrict r = (float*)out;
    const float* x = (const float*)a;
    int large = 0;
    for (int64_t i = 0; i < n; ++i) {
        r[i] = F(x[i]);
        large |= !(std::fabs(x[i]) <= (float)kMostReduced);
    }
    for (int64_t i = 0; large && i < n; ++i)
        if (!(std::fabs(x[i]) <= (float)kMostReduced)) r[i] = (float)D((double)x[i]);
}

void functions(Table& t) {
    native<exp_float, std::exp>(t, "exp");
    native<exp2_float, std::exp2>(t, "exp2");
    native<log_float, std::log>(t, "log");
    native<log2_float, std::log2>(t, "log2");
    native<log10_float, std::log10>(t, "log10");
    native<log1p_float, std::log1p>(t, "log1p");
    native<expm1_float, std::expm1>(t, "expm1");
    native<tanh_float, std::tanh>(t, "tanh");
    native<sigmoid_float, sigmoid_of>(t, "sigmoid");
    native<erf_float, std::erf>(t, "erf");
    t.add("sin.fp32.v", reduced_loop<sin_float, std::sin>);
    t.add("cos.fp32.v", reduced_loop<cos_float, std::cos>);
    unary<double, double, ByDouble<std::sin>>(t, "sin");
    unary<double, double, ByDouble<std::cos>>(t, "cos");
    by_double<std::tan>(t, "tan");
    by_double<std::asin>(t, "asin");
    by_double<std::acos>(t, "acos");
    by_double<std::atan>(t, "atan");
    by_double<std::sinh>(t, "sinh");
    by_double<std::cosh>(t, "cosh");
    by_double<std::asinh>(t, "asinh");
    by_double<std::acosh>(t, "acosh");
    by_double<std::atanh>(t, "atanh");
    by_double<std::erfc>(t, "erfc");
    binary<float, float, ByDouble2<std::pow>>(t, "powf");
    binary<double, double, ByDouble2<std::pow>>(t, "powf");
    binary<float, float, ByDouble2<std::atan2>>(t, "atan2");
    binary<double, double, ByDouble2<std::atan2>>(t, "atan2");
}

struct RoundTf32 {  // to 10 mantissa bits, to nearest even; infinities and NaN as they are
    float operator()(float x) const {
        uint32_t u = bits_of(x), rounded = (u + 0xFFF + ((u >> 13) & 1)) & ~0x1FFFu;
        return from_bits((u & 0x7FFFFFFF) > 0x7F800000 ? u : rounded);
    }
};

// --- integers: two's complement; division by zero, which only masked lanes may do, divides by one ---------------------

template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> constexpr int kBits = 8 * sizeof(T);

MTIA_FUNCTION(AddI, (T a, T b), return (T)((Unsigned<T>)a + (Unsigned<T>)b););
MTIA_FUNCTION(SubI, (T a, T b), return (T)((Unsigned<T>)a - (Unsigned<T>)b););
MTIA_FUNCTION(MulI, (T a, T b), return (T)((uint64_t)a * (uint64_t)b););
MTIA_FUNCTION(NegateI, (T a), return (T)(0 - (Unsigned<T>)a););
MTIA_FUNCTION(AbsoluteI, (T a), return a < 0 ? NegateI()(a) : a;);
MTIA_FUNCTION(DivS, (T a, T b), return b == 0 ? a : b == -1 ? NegateI()(a) : (T)(a / b););
MTIA_FUNCTION(RemS, (T a, T b), return b == 0 || b == -1 ? (T)0 : (T)(a % b););
MTIA_FUNCTION(DivU, (T a, T b), return b == 0 ? a : (T)((Unsigned<T>)a / (Unsigned<T>)b););
MTIA_FUNCTION(RemU, (T a, T b), return b == 0 ? (T)0 : (T)((Unsigned<T>)a % (Unsigned<T>)b););
MTIA_FUNCTION(FloorDivS, (T a, T b), T q = DivS()(a, b); T d = b == 0 ? (T)1 : b;
              return RemS()(a, b) != 0 && (a < 0) != (d < 0) ? (T)(q - 1) : q;);
MTIA_FUNCTION(CeilDivS, (T a, T b), return NegateI()(FloorDivS()(NegateI()(a), b)););
MTIA_FUNCTION(And, (T a, T b), return (T)(a & b););
MTIA_FUNCTION(Or, (T a, T b), return (T)(a | b););
MTIA_FUNCTION(Xor, (T a, T b), return (T)(a ^ b););
MTIA_FUNCTION(ShiftLeft, (T a, T b), Unsigned<T> s = (Unsigned<T>)b;
              return s < kBits<T> ? (T)((Unsigned<T>)a << s) : (T)0;);
MTIA_FUNCTION(ShiftRightS, (T a, T b), Unsigned<T> s = (Unsigned<T>)b;
              return (T)(a >> (s < kBits<T> ? s : kBits<T> - 1)););
MTIA_FUNCTION(ShiftRightU, (T a, T b), Unsigned<T> s = (Unsigned<T>)b;
              return s < kBits<T> ? (T)((Unsigned<T>)a >> s) : (T)0;);
MTIA_FUNCTION(MaxS, (T a, T b), return a > b ? a : b;);
MTIA_FUNCTION(MinS, (T a, T b), return a < b ? a : b;);
MTIA_FUNCTION(MaxU, (T a, T b), return (Unsigned<T>)a > (Unsigned<T>)b ? a : b;);
MTIA_FUNCTION(MinU, (T a, T b), return (Unsigned<T>)a < (Unsigned<T>)b ? a : b;);
MTIA_FUNCTION(IEq, (T a, T b), return a == b;);
MTIA_FUNCTION(INe, (T a, T b), return a != b;);
MTIA_FUNCTION(ISlt, (T a, T b), return a < b;);
MTIA_FUNCTION(ISle, (T a, T b), return a <= b;);
MTIA_FUNCTION(ISgt, (T a, T b), return a > b;);
MTIA_FUNCTION(ISge, (T a, T b), return a >= b;);
MTIA_FUNCTION(IUlt, (T a, T b), return (Unsigned<T>)a < (Unsigned<T>)b;);
MTIA_FUNCTION(IUle, (T a, T b), return (Unsigned<T>)a <= (Unsigned<T>)b;);
MTIA_FUNCTION(IUgt, (T a, T b), return (Unsigned<T>)a > (Unsigned<T>)b;);
MTIA_FUNCTION(IUge, (T a, T b), return (Unsigned<T>)a >= (Unsigned<T>)b;);

struct MulHighU {
    int32_t operator()(int32_t a, int32_t b) const { return (int32_t)(((uint64_t)(uint32_t)a * (uint32_t)b) >> 32); }
    int64_t operator()(int64_t a, int64_t b) const {
        return (int64_t)(((unsigned __int128)(uint64_t)a * (uint64_t)b) >> 64);
    }
};
struct MulHighS {
    int32_t operator()(int32_t a, int32_t b) const { return (int32_t)(((int64_t)a * b) >> 32); }
};
MTIA_FUNCTION(PopulationCount, (T a), return (int32_t)__builtin_popcountll((uint64_t)(Unsigned<T>)a););
MTIA_FUNCTION(LeadingZeros, (T a), Unsigned<T> u = (Unsigned<T>)a;
              return u == 0 ? kBits<T> : (int32_t)(__builtin_clzll((uint64_t)u) - (64 - kBits<T>)););

// By one divisor for all: 32-bit quotients are exact in double, which divides in vectors.
template <class F> void divide_by_one(void* out, const void* a, const void* b, const void*, int64_t n) {
    int32_t* __restrict r = (int32_t*)out;
    const int32_t *x = (const int32_t*)a, d = *(const int32_t*)b;
    double divisor = d == 0 ? 1.0 : d;
    if (d == -1)
        for (int64_t i = 0; i < n; ++i) r[i] = F::minus_one(x[i]);
    else
        for (int64_t i = 0; i < n; ++i) r[i] = F::of(x[i], (int32_t)((double)x[i] / divisor), d == 0 ? 1 : d);
}
struct Quotient {
    static int32_t of(int32_t, int32_t q, int32_t) { return q; }
    static int32_t minus_one(int32_t a) { return NegateI()(a); }
};
struct Rest {
    static int32_t of(int32_t a, int32_t q, int32_t d) { return a - q * d; }
    static int32_t minus_one(int32_t) { return 0; }
};

template <class T> void integers(Table& t) {
    binary<T, T, AddI>(t, "addi");
    binary<T, T, SubI>(t, "subi");
    binary<T, T, MulI>(t, "muli");
    if constexpr (sizeof(T) == 4) {
        t.add("divsi.i32.vs", divide_by_one<Quotient>);
        t.add("remsi.i32.vs", divide_by_one<Rest>);
    }
    binary<T, T, DivS>(t, "divsi");
    binary<T, T, RemS>(t, "remsi");
    binary<T, T, DivU>(t, "divui");
    binary<T, T, RemU>(t, "remui");
    binary<T, T, FloorDivS>(t, "floordivsi");
    binary<T, T, CeilDivS>(t, "ceildivsi");
    binary<T, T, And>(t, "andi");
    binary<T, T, Or>(t, "ori");
    binary<T, T, Xor>(t, "xori");
    binary<T, T, ShiftLeft>(t, "shli");
    binary<T, T, ShiftRightS>(t, "shrsi");
    binary<T, T, ShiftRightU>(t, "shrui");
    binary<T, T, MaxS>(t, "maxsi");
    binary<T, T, MinS>(t, "minsi");
    binary<T, T, MaxU>(t, "maxui");
    binary<T, T, MinU>(t, "minui");
    unary<T, T, AbsoluteI>(t, "absi");
    unary<int32_t, T, PopulationCount>(t, "popc");
    unary<int32_t, T, LeadingZeros>(t, "clz");
    binary<bool, T, IEq>(t, "cmpi.eq");
    binary<bool, T, INe>(t, "cmpi.ne");
    binary<bool, T, ISlt>(t, "cmpi.slt");
    binary<bool, T, ISle>(t, "cmpi.sle");
    binary<bool, T, ISgt>(t, "cmpi.sgt");
    binary<bool, T, ISge>(t, "cmpi.sge");
    binary<bool, T, IUlt>(t, "cmpi.ult");
    binary<bool, T, IUle>(t, "cmpi.ule");
    binary<bool, T, IUgt>(t, "cmpi.ugt");
    binary<bool, T, IUge>(t, "cmpi.uge");
}

void booleans(Table& t) {
    binary<bool, bool, And>(t, "andi");
    binary<bool, bool, Or>(t, "ori");
    binary<bool, bool, Xor>(t, "xori");
    binary<bool, bool, Xor>(t, "addi");
    binary<bool, bool, And>(t, "muli");
    binary<bool, bool, IEq>(t, "cmpi.eq");
    binary<bool, bool, INe>(t, "cmpi.ne");
    binary<bool, bool, ISlt>(t, "cmpi.ult");
    binary<bool, bool, ISle>(t, "cmpi.ule");
    binary<bool, bool, ISgt>(t, "cmpi.ugt");
    binary<bool, bool, ISge>(t, "cmpi.uge");
}

struct Select {
    template <class T> T operator()(bool c, T a, T b) const { return c ? a : b; }
};
template <class T> void select(Table& t, const char* name) { ternary<T, bool, T, Select>(t, name); }

// --- conversions ------------------------------------------------------------------------------------------------------

template <class D> struct Cast {
    template <class S> D operator()(S x) const { return (D)x; }
};
template <class D> struct CastUnsigned {
    D operator()(bool x) const { return (D)x; }
    template <class S> D operator()(S x) const {
        if constexpr (sizeof(S) == 8 && std::is_floating_point_v<D>)
            return (D)((double)x + (x < 0 ? 18446744073709551616.0 : 0.0));
        else
            return (D)(Unsigned<S>)x;
    }
};
template <class D> struct CastNegated {  // a true flag read as a signed bit is -1
    D operator()(bool x) const { return x ? (D)-1 : (std::is_floating_point_v<D> ? (D)-0.0 : (D)0); }
};
template <class D> struct Saturate {  // NaN gives 0, beyond 64 bits the nearest; then the low bits
    template <class S> D operator()(S x) const {
        double w = x != x ? 0.0 : (double)x;
        w = w < -9223372036854775808.0 ? -9223372036854775808.0 : w;
        w = w > 9223372036854774784.0 ? 9223372036854774784.0 : w;
        return (D)(int64_t)w;
    }
};
template <> template <class S> bool Saturate<bool>::operator()(S x) const { return x != 0; }

template <class S, class D> void conversion(Table& t, const char* op, Loop loop) {
    t.add(named<S>(op) + "." + kName<D> + ".v", loop);
}

template <class S, class D> void from_integer(Table& t) {
    if constexpr (std::is_floating_point_v<D>) {
        conversion<S, D>(t, "sitofp", unary_loop<D, S, std::conditional_t<std::is_same_v<S, bool>, CastNegated<D>, Cast<D>>>);
        conversion<S, D>(t, "uitofp", unary_loop<D, S, CastUnsigned<D>>);
        if constexpr (!std::is_same_v<S, bool>) conversion<D, S>(t, "fptosi", unary_loop<S, D, Saturate<S>>);
    } else if constexpr (std::is_same_v<D, bool>) {
        conversion<S, bool>(t, "trunci", [](void* out, const void* a, const void*, const void*, int64_t n) {
            for (int64_t i = 0; i < n; ++i) ((bool*)out)[i] = ((const S*)a)[i] & 1;
        });
    } else {
        conversion<S, D>(t, "extsi", unary_loop<D, S, std::conditional_t<std::is_same_v<S, bool>, CastNegated<D>, Cast<D>>>);
        conversion<S, D>(t, "extui", unary_loop<D, S, CastUnsigned<D>>);
        if constexpr (!std::is_same_v<S, bool>) conversion<S, D>(t, "trunci", unary_loop<D, S, Cast<D>>);
    }
}

template <class S> void from_integer_to_all(Table& t) {
    from_integer<S, int8_t>(t);
    from_integer<S, int16_t>(t);
    from_integer<S, int32_t>(t);
    from_integer<S, int64_t>(t);
    from_integer<S, float>(t);
    from_integer<S, double>(t);
    if constexpr (!std::is_same_v<S, bool>) from_integer<S, bool>(t);
}

// bfloat16, float16 and float8 are only converted: arithmetic on them is float32's, rounded after each operation.
struct BFloat16 {
    static float widen(uint16_t x) { return from_bits((uint32_t)x << 16); }
    static uint16_t narrow(float x) {
        uint32_t u = bits_of(x);
        uint16_t rounded = (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
        return x != x ? (uint16_t)0x7FC0 : rounded;
    }
};
struct Float16 {
    static float widen(uint16_t x) {
        _Float16 h;
        std::memcpy(&h, &x, sizeof h);
        return (float)h;
    }
    static uint16_t narrow(float x) {
        _Float16 h = (_Float16)x;
        uint16_t u;
        std::memcpy(&u, &h, sizeof u);
        return u;
    }
};

// A float8 with `M` mantissa bits and bias `B`: codes up to `kLargest` are finite, conversions saturate to it.
template <int M, int B, uint8_t kLargest, uint8_t kNanCode> struct Float8 {
    static float widen(uint8_t code) {
        uint8_t magnitude = code & 0x7F;
        int exponent = magnitude >> M, mantissa = magnitude & ((1 << M) - 1);
        float value = exponent == 0 ? std::ldexp((float)mantissa, 1 - B - M)
                                    : std::ldexp((float)(mantissa + (1 << M)), exponent - B - M);
        if (magnitude > kLargest) value = magnitude == 0x7C && M == 2 ? (float)kInfinity : (float)kNan;
        return code & 0x80 ? -value : value;
    }
    static uint8_t narrow(float x) {
        uint8_t sign = (uint8_t)((bits_of(x) >> 31) << 7);
        if (x != x) return sign | kNanCode;
        float a = std::fabs(x);
        int exponent = std::max(a > 0 ? std::ilogb(a) : -1000, 1 - B);
        float steps = a == (float)kInfinity ? 1e30f : std::nearbyint(std::ldexp(a, M - exponent));
        float code = steps + (float)((exponent + B - 1) << M);
        return sign | (uint8_t)(code > kLargest ? kLargest : code);
    }
};
using Float8E4M3 = Float8<3, 7, 0x7E, 0x7F>;
using Float8E5M2 = Float8<2, 15, 0x7B, 0x7F>;

template <class F, class Code> void widen_loop(void* out, const void* a, const void*, const void*, int64_t n) {
    float* __restrict r = (float*)out;
    const Code* x = (const Code*)a;
    for (int64_t i = 0; i < n; ++i) r[i] = F::widen(x[i]);
}
template <class F, class Code> void narrow_loop(void* out, const void* a, const void*, const void*, int64_t n) {
    Code* __restrict r = (Code*)out;
    const float* x = (const float*)a;
    for (int64_t i = 0; i < n; ++i) r[i] = F::narrow(x[i]);
}
template <class F, class Code> void narrow_float(Table& t, const std::string& name) {
    t.add("float." + name + ".fp32.v", widen_loop<F, Code>);
    t.add("float.fp32." + name + ".v", narrow_loop<F, Code>);
}

void conversions(Table& t) {
    unary<float, float, RoundTf32>(t, "tf32");
    from_integer_to_all<bool>(t);
    from_integer_to_all<int8_t>(t);
    from_integer_to_all<int16_t>(t);
    from_integer_to_all<int32_t>(t);
    from_integer_to_all<int64_t>(t);
    t.add("float.fp32.fp64.v", unary_loop<double, float, Cast<double>>);
    t.add("float.fp64.fp32.v", unary_loop<float, double, Cast<float>>);
    narrow_float<BFloat16, uint16_t>(t, "bf16");
    narrow_float<Float16, uint16_t>(t, "fp16");
    narrow_float<Float8E4M3, uint8_t>(t, "fp8e4m3");
    narrow_float<Float8E5M2, uint8_t>(t, "fp8e5m2");
}

const Table& table() {
    static const Table built = [] {
        Table t;
        floats<float>(t);
        floats<double>(t);
        functions(t);
        integers<int8_t>(t);
        integers<int16_t>(t);
        integers<int32_t>(t);
        integers<int64_t>(t);
        binary<int32_t, int32_t, MulHighU>(t, "mulhiui");
        binary<int64_t, int64_t, MulHighU>(t, "mulhiui");
        binary<int32_t, int32_t, MulHighS>(t, "mulhi");
        booleans(t);
        select<int8_t>(t, "select");
        select<int16_t>(t, "select");
        select<int32_t>(t, "select");
        select<int64_t>(t, "select");
        conversions(t);
        return t;
    }();
    return built;
}

}  // namespace

Loop loop_at(int id) { return table().loops[(size_t)id]; }

}  // namespace mtia

extern "C" {

// The number of the loop of this name, or -1 where there is none.
int mtia_find_loop(const char* name) {
    auto found = mtia::table().ids.find(name);
    return found == mtia::table().ids.end() ? -1 : found->second;
}

void mtia_run_loop(int id, void* out, const void* a, const void* b, const void* c, int64_t n) {
    mtia::loop_at(id)(out, a, b, c, n);
}
}
