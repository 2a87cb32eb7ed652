// Cross-entropy of labels with its gradient, in the formulas of deepcore/backends/numpy/loss.py.
//
// With D = X - max X, d = D[y], e = e^d, s the sum of e^D over all classes but y, and Z = s + e:
//     -log P[y] = log_Z - d      log_Z = log1p(s + expm1 d), exact where y is the top and d = 0
//     P = e^D / Z                1 - P[y] = s / Z: no digit is lost where the probability is near 1
// and with a share b = smoothing / C of each target for every class, class weights w,
// a = (1 - smoothing) w[y] and B = b sum w:
//     L = a (log_Z - d) + B log_Z - b sum_c w_c D_c
//     dX = ((a + B) P - b w) / m, at y ((B e - a s) / Z - b w[y]) / m
// m is the sum of the kept labels' weights for a mean, else 1. It stays on the device.
//
// Three launches: label_weights (n labels), cross_entropy (reads X once, or twice where a row is longer than a
// chunk, and writes dX: 2 n C sizeof(T) bytes at least), sum_losses (n losses).

// sums[0] = the weights of the labels that are kept, or their number; sums[1] = the weights of all classes
template <class T>
__device__ void label_weights(const long long* y, const T* w, double* sums, long long n, long long C, long long ignored)
{
    const double kept = block_sum(n, [&](long long i) {
        if (y[i] == ignored || y[i] < 0 || y[i] >= C) return 0.0;
        return w ? (double)widen(w[y[i]]) : 1.0;
    });
    const double all = w ? block_sum(C, [&](long long c) { return (double)widen(w[c]); }) : (double)C;
    if (threadIdx.x == 0) {
        sums[0] = kept;
        sums[1] = all;
    }
}

// Each row's loss, and with dX its gradient. w and dX may be null. A label that is neither a class nor ignored
// gives NaN: labels are checked before they come here.
template <class T, class A>
__device__ void cross_entropy(const T* X, const long long* y, const T* w, const double* sums, T* dX, A* L,
                              long long n, long long C, long long ignored, double smoothing, long long mean)
{
    const long long row = row_of_thread(n);
    if (row < 0) return;
    const Part<T> part(row, C);
    const long long label = y[row];
    const int target = label >= 0 && label < C ? (int)label : -1;
    Vector<T> x[HELD];

    if (label == ignored) {
        for (int chunk = 0; dX && chunk < part.chunks; ++chunk) {
            part.each(chunk, [&](int i, int j, int) { x[i].each[j] = narrow<T>((A)0); });
            part.store(dX, chunk, x);
        }
        if (threadIdx.x == 0) L[row] = 0;
        return;
    }

    A max = -infinity<A>(), s = 0;
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        part.load(X, chunk, x);
        A top = max;
        part.each(chunk, [&](int i, int j, int) { top = Largest()(widen(x[i].each[j]), top); });
        if (top > max) {
            s *= exp(max - top);
            max = top;
        }
        part.each(chunk, [&](int i, int j, int c) {
            const A value = widen(x[i].each[j]);
            if (c != target && value != -infinity<A>()) s += exp(value - max);
        });
    }
    const A top = row_max(max);
    s = row_sum(s * exp(max - top));

    const A d = (target < 0 ? infinity<A>() - infinity<A>() : widen(X[row * C + target])) - top;
    const A e = exp(d), Z = s + e, log_Z = log1p(s + expm1(d));
    const A m = mean ? (A)(sums[0] == 0 ? 1 : sums[0]) : (A)1;
    const A weight = w && target >= 0 ? widen(w[target]) : (A)1;
    const A b = (A)(smoothing / C), a = (A)(1 - smoothing) * weight, B = b * (A)sums[1];
    const A share = (a + B) / (m * Z), at_target = ((B * e - a * s) / Z - b * weight) / m;
    A wD = 0;  // sum w D
    for (int chunk = 0; (dX || smoothing > 0) && chunk < part.chunks; ++chunk) {
        if (part.chunks > 1) part.load(X, chunk, x);
        part.each(chunk, [&](int i, int j, int c) {
            const A D = widen(x[i].each[j]) - top, w_c = w ? widen(w[c]) : (A)1;
            if (smoothing > 0 && w_c != 0) wD += w_c * D;  // 0 log 0 = 0
            x[i].each[j] = narrow<T>(c == target ? at_target : share * exp(D) - b / m * w_c);
        });
        if (dX) part.store(dX, chunk, x);
    }
    A loss = a == 0 ? 0 : a * (log_Z - d);
    if (smoothing > 0) loss += B * log_Z - b * row_sum(wD);
    if (threadIdx.x == 0) L[row] = loss;
}

// total = sum L / m
template <class T, class A>
__device__ void sum_losses(const A* L, const double* sums, T* total, long long n, long long mean)
{
    const double sum = block_sum(n, [&](long long i) { return (double)L[i]; });
    if (threadIdx.x == 0) *total = narrow<T>(sum / (mean && sums[0] != 0 ? sums[0] : 1));
}

#define KERNELS(T, NAME)                                                                          \
    KERNEL label_weights_##NAME(const long long* y, const T* w, double* sums, long long n,        \
                                long long C, long long ignored)                                   \
    {                                                                                             \
        label_weights(y, w, sums, n, C, ignored);                                                 \
    }                                                                                             \
    KERNEL cross_entropy_##NAME(const T* X, const long long* y, const T* w, const double* sums,   \
                                T* dX, Wide<T>::type* L, long long n, long long C,                \
                                long long ignored, double smoothing, long long mean)              \
    {                                                                                             \
        cross_entropy(X, y, w, sums, dX, L, n, C, ignored, smoothing, mean);                      \
    }                                                                                             \
    KERNEL sum_losses_##NAME(const Wide<T>::type* L, const double* sums, T* total, long long n,   \
                             long long mean)                                                      \
    {                                                                                             \
        sum_losses(L, sums, total, n, mean);                                                      \
    }
