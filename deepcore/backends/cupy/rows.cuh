// What the kernels on rows share: 16-byte loads and stores of parts of a row, and sums over the threads of a row.
//
// Layout. An array is (n, C), row-major, its first element on a 16-byte boundary. A row has either a whole
// block, blockDim = (32 to 512, 1), or one warp of a block, blockDim = (32, rows of the block); blockDim.x is a
// power of two. A row is cut into vectors of 16 bytes, which lie on 16-byte boundaries of *memory*: where C is
// odd, the first and last of a row are part of its neighbours' too, and only their own elements are touched.
// A thread holds HELD vectors in registers at a time, neighbours in a warp next to each other: a chunk of
// HELD * blockDim.x vectors. A row of one chunk is read once; longer rows are read again in each pass.

const int HELD = 4;

// One thread's part of a row, by default HELD vectors at a time.
template <class T, int H = HELD> struct Part {
    static constexpr int V = 16 / sizeof(T);
    long long start;  // where the row's first vector begins, in elements of the array
    int C, shift;     // the row's first element is number `shift` of that vector
    int chunks;

    __device__ Part(long long row, long long C) : C((int)C)
    {
        shift = (int)(row * C % V);
        start = row * C - shift;
        chunks = (int)((shift + C + V - 1) / V + H * blockDim.x - 1) / (int)(H * blockDim.x);
    }

    // The column of a vector's first element: below 0 or beyond C - V where neighbours share the vector.
    __device__ int column(int chunk, int i) const
    {
        return ((chunk * H + i) * (int)blockDim.x + (int)threadIdx.x) * V - shift;
    }

    __device__ void load(const T* X, int chunk, Vector<T> (&x)[H]) const
    {
#pragma unroll
        for (int i = 0; i < H; ++i) {
            const int c = column(chunk, i);
            const T* from = X + (start + shift + c);
            if (c >= 0 && c + V <= C) {
                x[i].all = *(const uint4*)from;
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j)
                    if (c + j >= 0 && c + j < C) x[i].each[j] = from[j];
            }
        }
    }

    __device__ void store(T* Y, int chunk, const Vector<T> (&y)[H]) const
    {
#pragma unroll
        for (int i = 0; i < H; ++i) {
            const int c = column(chunk, i);
            T* to = Y + (start + shift + c);
            if (c >= 0 && c + V <= C) {
                *(uint4*)to = y[i].all;
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j)
                    if (c + j >= 0 && c + j < C) to[j] = y[i].each[j];
            }
        }
    }

    // f(i, j, c) for each element j of vector i that is column c of this row
    template <class F> __device__ void each(int chunk, F f) const
    {
#pragma unroll
        for (int i = 0; i < H; ++i) {
            const int c = column(chunk, i);
#pragma unroll
            for (int j = 0; j < V; ++j)
                if (c + j >= 0 && c + j < C) f(i, j, c + j);
        }
    }
};

// The row of this thread, or -1 if there is none left.
__device__ inline long long row_of_thread(long long n)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    return row < n ? row : -1;  // the same for a whole warp: no barrier waits for those that leave
}

struct Sum {
    template <class A> __device__ A operator()(A a, A b) const { return a + b; }
};
struct Largest {
    template <class A> __device__ A operator()(A a, A b) const { return a > b ? a : b; }
};

// One number for each warp of a block, in shared memory.
static __device__ double* warp_numbers()
{
    __shared__ double numbers[32];
    return numbers;
}

// `a` of all threads of a row combined, in the same order each time; every thread gets the result.
template <class A, class Combine> __device__ inline A over_row(A a, A nothing, Combine combine)
{
    for (int lane = 16; lane > 0; lane /= 2) a = combine(a, __shfl_xor_sync(0xffffffffu, a, lane));
    if (blockDim.x == 32) return a;
    A* of_warp = (A*)warp_numbers();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = a;
    __syncthreads();
    a = threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : nothing;
    for (int lane = 16; lane > 0; lane /= 2) a = combine(a, __shfl_xor_sync(0xffffffffu, a, lane));
    __syncthreads();  // all have read of_warp before the next call writes to it
    return a;
}

template <class A> __device__ inline A row_sum(A a) { return over_row(a, (A)0, Sum()); }
template <class A> __device__ inline A row_max(A a) { return over_row(a, -infinity<A>(), Largest()); }

// The sum of the first `n` values f(i), in double, in the same order each time. One block.
template <class F> __device__ double block_sum(long long n, F f)
{
    double sum = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) sum += f(i);
    return row_sum(sum);
}
