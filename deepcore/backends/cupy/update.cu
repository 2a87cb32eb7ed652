// How weights move, in the formulas of deepcore/ops/update.py: one launch for many of them and all their memory.
//
// Bytes: Adam reads W, dW, M, V and writes W, M, V: 28 a weight in float32. A number that changes from step to step
// is read from the device where there is one, since a captured step would keep the host's: `_at` is null or points
// to it. Which arrays there are is told in a table, which is passed by value: a captured launch keeps that too.
// Each array has blocks of its own, one after the other's, and a block finds its array by its number.

const int MOST = 48;  // arrays of a launch: at 68 bytes each, the table stays below the 4096 that arguments may have

template <class T> struct Arrays {  // of one weight; null where there is none
    const T *W, *dW, *M, *V;
    T *new_W, *new_M, *new_V;
    long long n;
};
template <class T> struct Table {
    Arrays<T> of[MOST];
    int first_block[MOST + 1];  // of each, and past the last one; blocks of nobody beyond that
    int count;
};

// The array of this block, and how many blocks of it come before this one.
template <class T> __device__ inline const Arrays<T>& arrays_of_block(const Table<T>& table, long long* before)
{
    int k = 0;
    while (k + 1 < table.count && (int)blockIdx.x >= table.first_block[k + 1]) ++k;
    *before = (int)blockIdx.x - table.first_block[k];
    return table.of[k];
}

// The first element of this thread's vector.
template <class T> __device__ inline long long first_of_thread_in(long long before)
{
    return (before * blockDim.x + threadIdx.x) * (16 / sizeof(T));
}

template <class A> __device__ inline A number(const A* at, double value) { return at ? *at : (A)value; }

// W' = W - lr V'   V' = momentum V + dW, here M   (nesterov: W' = W - lr (dW + momentum V'))
template <class T, class A>
__device__ void sgd(const Table<T>& table, const A* lr_at, double lr_value, double momentum, long long nesterov,
                    double weight_decay)
{
    long long before;
    const Arrays<T>& of = arrays_of_block(table, &before);
    const long long first = first_of_thread_in<T>(before), n = of.n;
    if (first >= n) return;
    const A lr = number(lr_at, lr_value), m = (A)momentum, decay = (A)weight_decay;
    Vector<T> w = load_at(of.W, first, n), v = load_at(of.M ? of.M : of.W, first, n);
    const Vector<T> dw = load_at(of.dW, first, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) {
        const A g = widen(dw.each[j]) + decay * widen(w.each[j]);
        const A velocity = of.M ? m * widen(v.each[j]) + g : g;
        w.each[j] = narrow<T>(widen(w.each[j]) - lr * (nesterov ? g + m * velocity : velocity));
        v.each[j] = narrow<T>(velocity);
    }
    store_at(of.new_W, first, n, w);
    if (of.M) store_at(of.new_M, first, n, v);
}

template <class T, class A>
__device__ void adam(const Table<T>& table, const A* rate_at, double rate_value, const A* root_at, double root_value,
                     const A* keep_at, double keep_value, double b1, double b2, double eps, double weight_decay)
{
    long long before;
    const Arrays<T>& of = arrays_of_block(table, &before);
    const long long first = first_of_thread_in<T>(before), n = of.n;
    if (first >= n) return;
    const A rate = number(rate_at, rate_value), root = number(root_at, root_value), keep = number(keep_at, keep_value);
    const A old_1 = (A)b1, new_1 = (A)(1 - b1), old_2 = (A)b2, new_2 = (A)(1 - b2), decay = (A)weight_decay;
    Vector<T> w = load_at(of.W, first, n), m = load_at(of.M, first, n), v = load_at(of.V, first, n);
    const Vector<T> dw = load_at(of.dW, first, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) {
        const A weight = widen(w.each[j]), g = widen(dw.each[j]) + decay * weight;
        const A mean = old_1 * widen(m.each[j]) + new_1 * g, square = old_2 * widen(v.each[j]) + new_2 * (g * g);
        w.each[j] = narrow<T>(keep * weight - rate * (mean / (sqrt(square) / root + (A)eps)));
        m.each[j] = narrow<T>(mean);
        v.each[j] = narrow<T>(square);
    }
    store_at(of.new_W, first, n, w);
    store_at(of.new_M, first, n, m);
    store_at(of.new_V, first, n, v);
}

// new_W = W, or dW where `first` is not null and points to false
template <class T> __device__ void either(const Table<T>& table, const unsigned char* first_at)
{
    long long before;
    const Arrays<T>& of = arrays_of_block(table, &before);
    const long long first = first_of_thread_in<T>(before);
    if (first >= of.n) return;
    store_at(of.new_W, first, of.n, load_at(!first_at || *first_at ? of.W : of.dW, first, of.n));
}

// partial[block] = the sum of dW^2 over this block's part, VECTORS vectors for each thread
const int VECTORS = 8;
template <class T> __device__ void square_sums(const Table<T>& table, double* partial)
{
    constexpr int V = 16 / sizeof(T);
    long long before;
    const Arrays<T>& of = arrays_of_block(table, &before);
    double sum = 0;
#pragma unroll 4
    for (int k = 0; k < VECTORS; ++k) {
        const long long first = first_of_thread_in<T>(before * VECTORS + k);
        if (first >= of.n) break;
        const Vector<T> dw = load_at(of.dW, first, of.n);
#pragma unroll
        for (int j = 0; j < V; ++j) sum += (double)widen(dw.each[j]) * (double)widen(dw.each[j]);
    }
    sum = row_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm = sqrt(sum partial)
template <class T> __device__ void norm_of_sums(const double* partial, T* norm, long long count)
{
    const double sum = block_sum(count, [&](long long i) { return partial[i]; });
    if (threadIdx.x == 0) *norm = narrow<T>(sqrt(sum));
}

#define KERNELS(T, NAME)                                                                                          \
    KERNEL sgd_##NAME(const Table<T> table, const Wide<T>::type* lr_at, double lr, double momentum,               \
                      long long nesterov, double weight_decay)                                                    \
    {                                                                                                             \
        sgd(table, lr_at, lr, momentum, nesterov, weight_decay);                                                  \
    }                                                                                                             \
    KERNEL adam_##NAME(const Table<T> table, const Wide<T>::type* rate_at, double rate,                           \
                       const Wide<T>::type* root_at, double root, const Wide<T>::type* keep_at, double keep,      \
                       double b1, double b2, double eps, double weight_decay)                                     \
    {                                                                                                             \
        adam(table, rate_at, rate, root_at, root, keep_at, keep, b1, b2, eps, weight_decay);                      \
    }                                                                                                             \
    KERNEL either_##NAME(const Table<T> table, const unsigned char* first_at) { either(table, first_at); }        \
    KERNEL square_sums_##NAME(const Table<T> table, double* partial) { square_sums(table, partial); }             \
    KERNEL norm_of_sums_##NAME(const double* partial, T* norm, long long count)                                   \
    {                                                                                                             \
        norm_of_sums(partial, norm, count);                                                                       \
    }
