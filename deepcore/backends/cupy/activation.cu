// Activations and their slopes, in the formulas of deepcore/ops/activation.py, which says why each is as it is.
//
// Bytes: each array read or written once.

// e^-|x|, which doesn't overflow
template <class A> __device__ inline A exp_minus_abs(A x) { return exp(x < 0 ? x : -x); }

template <class A> __device__ inline A sigmoid(A x)
{
    const A E = exp_minus_abs(x);
    return (x < 0 ? E : 1) / (1 + E);
}

template <class A> __device__ inline A sigmoid_slope(A x)
{
    const A E = exp_minus_abs(x), S = 1 + E;
    return E / (S * S);
}

template <class A> __device__ inline A tanh_slope(A x)
{
    const A E = exp_minus_abs(x), sech = 2 * E / (1 + E * E);
    return sech * sech;
}

template <class A> __device__ inline A silu_of(A x)
{
    const A H = exp((A)0.5 * (x < 0 ? x : -x));
    return (x < 0 ? x * H * H : x) / (1 + H * H);
}

template <class A> __device__ inline A softplus_tail_of(A x) { return log1p(exp_minus_abs(x)); }

// x between -40 and 40, beyond which gates and slopes are 0 or 1; NaN stays
template <class A> __device__ inline A bounded(A x) { return x > 40 ? 40 : x < -40 ? -40 : x; }

// P(Z > a) / phi(a) for a >= 0: a polynomial in T = (a - 4) / (a + 4), over 1 + a
__device__ inline float mills_ratio(float a)
{
    const float c[] = {1.183261905f, -0.2423996532f, 0.03509257944f, 0.07168999013f, -0.08071634538f, 0.04496313583f,
                       -0.01250234556f, -0.000730099339f, 0.001666879458f, -0.0002119454919f, -0.0001456131328f,
                       3.150467452e-05f};
    const float T = (a - 4) / (a + 4);
    float P = c[11];
#pragma unroll
    for (int k = 10; k >= 0; --k) P = P * T + c[k];
    return P / (1 + a);
}

__device__ inline double mills_ratio(double a)
{
    const double c[] = {1.1832619145678034, -0.2423996705218081, 0.035091880234748005, 0.07169048120143744,
                        -0.0807080096790523, 0.04495912907706981, -0.01253910362039814, -0.0007159509052838121,
                        0.001741848773732585, -0.00023670175882712258, -0.00022021557569575163, 5.32669709383154e-05,
                        3.4158814331838304e-05, -8.606187876097028e-06, -6.553354455258487e-06, 1.0194890870988967e-06,
                        1.3907627079853225e-06, -3.1010836099470434e-09, -2.8692999652122816e-07,
                        -4.49491638202463e-08, 5.0778441223622434e-08, 1.3723059452400968e-08, -6.562440237066926e-09,
                        -1.6952996818773715e-09, 4.4802333823089844e-10};
    const double T = (a - 4) / (a + 4);
    double P = c[24];
#pragma unroll
    for (int k = 23; k >= 0; --k) P = P * T + c[k];
    return P / (1 + a);
}

// e^(-a^2/2) / sqrt(2 pi) for 0 <= a <= 40, with a cut to sixteenths so that its square is exact
template <class A> __device__ inline A normal_density(A a)
{
    const A H = floor(16 * a) / 16;
    return exp((A)-0.5 * H * H) * (exp((A)-0.5 * (a - H) * (a + H)) * (A)0.3989422804014327);
}

template <class A> __device__ inline A gelu_of(A x)
{
    const A a = bounded(x < 0 ? -x : x), M = mills_ratio(a), phi = normal_density(a);
    return x < 0 ? x * M * phi : x * (1 - M * phi);
}

template <class A> __device__ inline A gelu_slope(A x)
{
    const A a = bounded(x < 0 ? -x : x), left = normal_density(a) * (mills_ratio(a) - a);
    return x < 0 ? left : 1 - left;
}

const double CUBIC = 0.044715, TWICE_ROOT = 1.5957691216057308;  // 2 sqrt(2 / pi)

template <class A> __device__ inline A gelu_tanh_of(A x)
{
    const A b = bounded(x);
    return x * sigmoid((A)TWICE_ROOT * b * (1 + (A)CUBIC * b * b));
}

template <class A> __device__ inline A gelu_tanh_slope(A x)
{
    const A b = bounded(x), U2 = (A)TWICE_ROOT * b * (1 + (A)CUBIC * b * b);
    return sigmoid(U2) + b * sigmoid_slope(U2) * ((A)TWICE_ROOT * (1 + (A)(3 * CUBIC) * b * b));
}

template <class A> __device__ inline A mish_of(A x)
{
    const A E = exp_minus_abs(x), left = E * (2 + E);
    return x * (x < 0 ? left / (2 + left) : (1 + 2 * E) / (1 + 2 * E * (1 + E)));
}

template <class A> __device__ inline A mish_slope(A x)
{
    const A E = exp_minus_abs(x), left = E * (2 + E), D = x < 0 ? 2 + left : 1 + 2 * E * (1 + E);
    const A T = (x < 0 ? left : 1 + 2 * E) / D;
    return T + bounded(x) * (4 * (x < 0 ? E : E * E) * (1 + E) / (D * D));
}

// One kernel: NAME(X, Y, n, a, b), Y = FORMULA of A x and the settings A a, A b.
#define MAP(NAME, T, DTYPE, FORMULA)                                                                       \
    KERNEL NAME##_##DTYPE(const T* X, T* Y, long long n, double first, double second)                      \
    {                                                                                                      \
        using A = Wide<T>::type;                                                                           \
        const A a = (A)first, b = (A)second;                                                               \
        map(X, Y, n, [=](A x) -> A { return (void)a, (void)b, FORMULA; });                                 \
    }

// x <= 0 ? ... and not x > 0 ? ..., so that NaN stays NaN
#define KERNELS(T, NAME)                                                                                   \
    KERNEL relu_backward_##NAME(const T* dY, const T* X, T* dX, long long n)                               \
    {                                                                                                      \
        using A = Wide<T>::type;                                                                           \
        map(dY, X, dX, n, [](A dy, A x) -> A { return x <= 0 ? (A)0 : dy; });                              \
    }                                                                                                      \
    MAP(relu, T, NAME, x <= 0 ? (A)0 : x)                                                                  \
    MAP(relu_grad, T, NAME, x <= 0 ? (A)0 : (A)1)                                                          \
    MAP(leaky_relu, T, NAME, x > 0 ? x : a * x)                                                            \
    MAP(leaky_relu_grad, T, NAME, x > 0 ? (A)1 : a)                                                        \
    MAP(sigmoid, T, NAME, sigmoid(x))                                                                      \
    MAP(sigmoid_grad, T, NAME, sigmoid_slope(x))                                                           \
    MAP(tanh, T, NAME, tanh(x))                                                                            \
    MAP(tanh_grad, T, NAME, tanh_slope(x))                                                                 \
    MAP(silu, T, NAME, silu_of(x))                                                                         \
    MAP(silu_grad, T, NAME, sigmoid(x) * (1 + x * sigmoid(-x)))                                            \
    MAP(mish, T, NAME, mish_of(x))                                                                         \
    MAP(mish_grad, T, NAME, mish_slope(x))                                                                 \
    MAP(gelu, T, NAME, gelu_of(x))                                                                         \
    MAP(gelu_grad, T, NAME, gelu_slope(x))                                                                 \
    MAP(gelu_tanh, T, NAME, gelu_tanh_of(x))                                                               \
    MAP(gelu_tanh_grad, T, NAME, gelu_tanh_slope(x))                                                       \
    MAP(softplus_tail, T, NAME, softplus_tail_of(x))                                                       \
    MAP(log_sigmoid, T, NAME, (x < 0 ? x : x != x ? x : (A)0) - softplus_tail_of(x))                       \
    MAP(softplus, T, NAME, a * x > b ? x : ((a * x < 0 ? (A)0 : a * x) + softplus_tail_of(a * x)) / a)     \
    MAP(softplus_grad, T, NAME, a * x > b ? (A)1 : sigmoid(a * x))
