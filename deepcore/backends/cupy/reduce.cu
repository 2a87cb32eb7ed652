// Sums over the rows, (n, W) -> (W), in a fixed order: the gradient of a bias.
//
// Bytes: n W sizeof(T) read. Two launches: column_sum leaves a sum for each slice of the rows, which
// channel_totals adds up; of images (N, C, S), over the S places of a channel too. Few rows are one slice, and one
// launch.

template <class T, class P>
__device__ void column_sum(const T* X, P* partial, long long n, long long W, long long tiles, long long slices)
{
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, W, tiles, slices);
    column_sums<1>(columns, partial, [&](long long row, double (&sums)[1][V]) {
        const Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) sums[0][j] += (double)widen(x.each[j]);
    });
}

// totals[c] = the sum of partial (count, C, S), one block for each channel
template <class T>
__device__ void channel_totals(const double* partial, T* totals, long long count, long long C, long long S)
{
    const double sum = channel_sum(partial, count, blockIdx.x, C, S);
    if (threadIdx.x == 0) totals[blockIdx.x] = narrow<T>(sum);
}

#define KERNELS(T, NAME)                                                                                  \
    KERNEL column_sum_##NAME(const T* X, double* partial, long long n, long long W, long long tiles,      \
                             long long slices)                                                            \
    {                                                                                                     \
        column_sum(X, partial, n, W, tiles, slices);                                                      \
    }                                                                                                     \
    KERNEL column_sum_of_few_##NAME(const T* X, T* sums, long long n, long long W, long long tiles)       \
    {                                                                                                     \
        column_sum(X, sums, n, W, tiles, 1);                                                              \
    }                                                                                                     \
    KERNEL channel_totals_##NAME(const double* partial, T* totals, long long count, long long C, long long S) \
    {                                                                                                     \
        channel_totals(partial, totals, count, C, S);                                                     \
    }
