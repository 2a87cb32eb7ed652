// How a weight moves, in the formulas of deepcore/ops/update.py: one launch for a weight and all its memory.
//
// Bytes: Adam reads W, dW, M, V and writes W, M, V: 28 a weight in float32. A number that changes from step to step
// is read from the device where there is one, since a captured step would keep the host's: `_at` is null or points
// to it.

template <class A> __device__ inline A number(const A* at, double value) { return at ? *at : (A)value; }

template <class T, class A>
__device__ void sgd(const T* W, const T* dW, const T* V, T* new_W, T* new_V, long long n, const A* lr_at, double lr_value,
                    double momentum, long long nesterov, double weight_decay)
{
    const long long first = first_of_thread<T>();
    if (first >= n) return;
    const A lr = number(lr_at, lr_value), m = (A)momentum, decay = (A)weight_decay;
    Vector<T> w = load_at(W, first, n), v = load_at(V ? V : W, first, n);
    const Vector<T> dw = load_at(dW, first, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) {
        const A g = widen(dw.each[j]) + decay * widen(w.each[j]);
        const A velocity = V ? m * widen(v.each[j]) + g : g;
        w.each[j] = narrow<T>(widen(w.each[j]) - lr * (nesterov ? g + m * velocity : velocity));
        v.each[j] = narrow<T>(velocity);
    }
    store_at(new_W, first, n, w);
    if (V) store_at(new_V, first, n, v);
}

template <class T, class A>
__device__ void adam(const T* W, const T* dW, const T* M, const T* V, T* new_W, T* new_M, T* new_V, long long n,
                     const A* rate_at, double rate_value, const A* root_at, double root_value, const A* keep_at,
                     double keep_value, double b1, double b2, double eps, double weight_decay)
{
    const long long first = first_of_thread<T>();
    if (first >= n) return;
    const A rate = number(rate_at, rate_value), root = number(root_at, root_value), keep = number(keep_at, keep_value);
    const A old_1 = (A)b1, new_1 = (A)(1 - b1), old_2 = (A)b2, new_2 = (A)(1 - b2), decay = (A)weight_decay;
    Vector<T> w = load_at(W, first, n), m = load_at(M, first, n), v = load_at(V, first, n);
    const Vector<T> dw = load_at(dW, first, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) {
        const A weight = widen(w.each[j]), g = widen(dw.each[j]) + decay * weight;
        const A mean = old_1 * widen(m.each[j]) + new_1 * g, square = old_2 * widen(v.each[j]) + new_2 * (g * g);
        w.each[j] = narrow<T>(keep * weight - rate * (mean / (sqrt(square) / root + (A)eps)));
        m.each[j] = narrow<T>(mean);
        v.each[j] = narrow<T>(square);
    }
    store_at(new_W, first, n, w);
    store_at(new_M, first, n, m);
    store_at(new_V, first, n, v);
}

#define KERNELS(T, NAME)                                                                                          \
    KERNEL sgd_##NAME(const T* W, const T* dW, const T* V, T* new_W, T* new_V, long long n,                       \
                      const Wide<T>::type* lr_at, double lr, double momentum, long long nesterov,                 \
                      double weight_decay)                                                                        \
    {                                                                                                             \
        sgd(W, dW, V, new_W, new_V, n, lr_at, lr, momentum, nesterov, weight_decay);                              \
    }                                                                                                             \
    KERNEL adam_##NAME(const T* W, const T* dW, const T* M, const T* V, T* new_W, T* new_M, T* new_V,             \
                       long long n, const Wide<T>::type* rate_at, double rate, const Wide<T>::type* root_at,      \
                       double root, const Wide<T>::type* keep_at, double keep, double b1, double b2, double eps,  \
                       double weight_decay)                                                                       \
    {                                                                                                             \
        adam(W, dW, M, V, new_W, new_M, new_V, n, rate_at, rate, root_at, root, keep_at, keep, b1, b2, eps,       \
             weight_decay);                                                                                       \
    }
