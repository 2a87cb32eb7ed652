// What the kernels on columns share: sums over the rows of (n, W), and the same change of every row.
//
// blockDim = (x, y): x neighbouring vectors of V columns, a power of two up to 32, and y = 256 / x rows at a time.
// The grid is tiles * slices: a tile is x vectors wide, and slice k has rows y k + threadIdx.y, then y * slices
// further on, and so on. So a thread has the same columns in every row, and a sum the same order in every run.
// Sums are taken in double, which the memory is slow enough for (but on GPUs made for games).
// Where W isn't a multiple of V, rows begin off the 16-byte boundaries, and elements are read one by one.
//
// Images are (N, C, S), W = C S columns of N rows: column w belongs to channel w / S.

const int MOST_SUMS = 256 * 8;  // of a block: threads times V

template <class T> struct Columns {
    static constexpr int V = 16 / sizeof(T);
    long long n, W, slices;
    long long tile, slice, column, row, step;  // the thread's first column and row; how far its rows are apart
    bool even;                                 // whether every row begins on a boundary

    __device__ Columns(long long n, long long W, long long tiles, long long slices)
        : n(n), W(W), slices(slices), tile(blockIdx.x % tiles), slice(blockIdx.x / tiles)
    {
        column = (tile * blockDim.x + threadIdx.x) * V;
        row = slice * blockDim.y + threadIdx.y;
        step = slices * blockDim.y;
        even = W % V == 0;
    }

    __device__ Vector<T> load(const T* X, long long row) const { return load_at(X + row * W, column, W, even); }
    __device__ void store(T* Y, long long row, const Vector<T>& y) const { store_at(Y + row * W, column, W, y, even); }

    // f(row) for each row of this thread, so many of them on their way at once
    template <int AT_ONCE = 4, class F> __device__ void each_row(F f) const
    {
        if (column >= W) return;
#pragma unroll AT_ONCE
        for (long long r = row; r < n; r += step) f(r);
    }
};

// One double for each thread and element, in shared memory.
static __device__ double* sums_of_threads()
{
    __shared__ double sums[MOST_SUMS];
    return sums;
}

// partial (Q, slices, W): Q sums over each slice's rows, where add(row, sums) adds one row's terms.
template <int Q, class T, class P, class F>
__device__ void column_sums(const Columns<T>& columns, P* partial, F add)
{
    constexpr int V = Columns<T>::V;
    double sums[Q][V] = {};
    columns.template each_row<4 / Q>([&](long long row) { add(row, sums); });  // or registers run out
    const int width = blockDim.x * V, thread = threadIdx.y * blockDim.x + threadIdx.x;
    double* shared = sums_of_threads();
#pragma unroll
    for (int q = 0; q < Q; ++q) {
#pragma unroll
        for (int j = 0; j < V; ++j) shared[thread * V + j] = sums[q][j];
        __syncthreads();
        for (int c = thread; c < width; c += blockDim.x * blockDim.y) {
            double sum = 0;
            for (int y = 0; y < blockDim.y; ++y) sum += shared[y * width + c];
            const long long w = columns.tile * width + c;
            if (w < columns.W) partial[(q * columns.slices + columns.slice) * columns.W + w] = narrow<P>(sum);
        }
        __syncthreads();  // all have read before the next sum is written
    }
}

// The sum of partial (count, C, S) for channel c over the first and last axis. One block a channel.
template <class P>
__device__ double channel_sum(const P* partial, long long count, long long c, long long C, long long S)
{
    double sum = 0;
    for (long long k = threadIdx.x; k < count * S; k += blockDim.x)
        sum += (double)partial[(k / S * C + c) * S + k % S];
    return row_sum(sum);
}
