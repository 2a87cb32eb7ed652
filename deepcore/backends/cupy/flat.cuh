// What the kernels share that take one element after the other, whatever the array's shape is.
//
// An array is row-major, its first element on a 16-byte boundary. Each thread has one vector of 16 bytes; of the
// last one, only the elements that are there. Between 16 and 20 kB in flight on each multiprocessor hide the
// latency of memory, and 2048 threads that each load one vector of one array have 32.

template <class T> __device__ inline long long first_of_thread()
{
    return ((long long)blockIdx.x * blockDim.x + threadIdx.x) * (16 / sizeof(T));
}

// Elements i to i + V - 1 of n. With `even`, X + i is known to lie on a 16-byte boundary.
template <class T> __device__ inline Vector<T> load_at(const T* X, long long i, long long n, bool even = true)
{
    constexpr int V = 16 / sizeof(T);
    Vector<T> x;
    if (even && i + V <= n) {
        x.all = *(const uint4*)(X + i);
    } else {
#pragma unroll
        for (int j = 0; j < V; ++j) x.each[j] = i + j < n ? X[i + j] : narrow<T>(0.0f);
    }
    return x;
}

template <class T>
__device__ inline void store_at(T* Y, long long i, long long n, const Vector<T>& y, bool even = true)
{
    constexpr int V = 16 / sizeof(T);
    if (even && i + V <= n) {
        *(uint4*)(Y + i) = y.all;
    } else {
#pragma unroll
        for (int j = 0; j < V; ++j)
            if (i + j < n) Y[i + j] = y.each[j];
    }
}

// Y = f(X)
template <class T, class F> __device__ inline void map(const T* X, T* Y, long long n, F f)
{
    const long long i = first_of_thread<T>();
    if (i >= n) return;
    Vector<T> x = load_at(X, i, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) x.each[j] = narrow<T>(f(widen(x.each[j])));
    store_at(Y, i, n, x);
}

// Y = f(A, B)
template <class T, class F> __device__ inline void map(const T* A, const T* B, T* Y, long long n, F f)
{
    const long long i = first_of_thread<T>();
    if (i >= n) return;
    Vector<T> a = load_at(A, i, n);
    const Vector<T> b = load_at(B, i, n);
#pragma unroll
    for (int j = 0; j < 16 / sizeof(T); ++j) a.each[j] = narrow<T>(f(widen(a.each[j]), widen(b.each[j])));
    store_at(Y, i, n, a);
}
