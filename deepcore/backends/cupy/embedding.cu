// The gradient of an embedding: out[k] = the sum of rows[order[i]] over first[k] <= i < first[k + 1].
//
// order sorts the indices, so that the rows of one index are neighbours in it, in their own order: no atomics, and
// the same sum in every run. Each row of out has one warp, which walks over its rows; out is written whole, zeros
// too. Bytes: rows once, out once. An index that stands nearly everywhere leaves one warp with nearly all the work.

template <class T>
__device__ void scatter_add(const T* rows, const long long* order, const long long* first, T* out, long long n,
                            long long d)
{
    constexpr int V = 16 / sizeof(T);
    const long long k = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (k >= n) return;
    const bool even = d % V == 0;
    for (long long c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        double sum[V] = {};
#pragma unroll 4
        for (long long i = first[k]; i < first[k + 1]; ++i) {
            const Vector<T> x = load_at(rows + order[i] * d, c, d, even);
#pragma unroll
            for (int j = 0; j < V; ++j) sum[j] += (double)widen(x.each[j]);
        }
        Vector<T> y;
#pragma unroll
        for (int j = 0; j < V; ++j) y.each[j] = narrow<T>(sum[j]);
        store_at(out + k * d, c, d, y, even);
    }
}

#define KERNELS(T, NAME)                                                                                    \
    KERNEL scatter_add_##NAME(const T* rows, const long long* order, const long long* first, T* out,        \
                              long long n, long long d)                                                     \
    {                                                                                                       \
        scatter_add(rows, order, first, out, n, d);                                                         \
    }
