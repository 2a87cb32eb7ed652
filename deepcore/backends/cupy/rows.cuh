// What the kernels on rows share: numbers, 16-byte loads and stores, and sums over the threads of a row.
//
// Layout. An array is (n, C), row-major, its first element on a 16-byte boundary. A row has either a whole
// block, blockDim = (32 to 512, 1), or one warp of a block, blockDim = (32, rows of the block); blockDim.x is a
// power of two. A row is cut into vectors of 16 bytes, which lie on 16-byte boundaries of *memory*: where C is
// odd, the first and last of a row are part of its neighbours' too, and only their own elements are touched.
// A thread holds HELD vectors in registers at a time, neighbours in a warp next to each other: a chunk of
// HELD * blockDim.x vectors. A row of one chunk is read once; longer rows are read again in each pass.
//
// Numbers are read and written as T, and computed in Wide<T>: float, or double for double.
// Each family ends with a macro KERNELS(T, NAME), which makes its kernels for one dtype; kernels.py adds the line
// that calls it, because compiling a family takes a second or two for each. No header is included, so that
// NVRTC alone compiles this; tests/gpu/emulation.h gives it a meaning in C++.

const int HELD = 4;
#define KERNEL extern "C" __global__ void __launch_bounds__(512, 1)

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

template <class T> struct Wide { using type = float; };
template <> struct Wide<double> { using type = double; };

#ifndef EMULATION
__device__ inline float half_to_float(unsigned short bits)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short float_to_half(float x)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

__device__ inline unsigned short float_to_bfloat16(float x)
{
    const unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // the nearest; of two, the even one
}

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float16 x) { return half_to_float(x.bits); }
__device__ inline float widen(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <class T, class A> struct Narrow {
    static __device__ T of(A x) { return (T)x; }
};
template <class A> struct Narrow<float16, A> {
    static __device__ float16 of(A x) { return {float_to_half((float)x)}; }
};
template <class A> struct Narrow<bfloat16, A> {
    static __device__ bfloat16 of(A x) { return {float_to_bfloat16((float)x)}; }
};
template <class T, class A> __device__ inline T narrow(A x) { return Narrow<T, A>::of(x); }

template <class A> __device__ inline A infinity() { return (A)__uint_as_float(0x7f800000); }

template <class T> union alignas(16) Vector {
    uint4 all;
    T each[16 / sizeof(T)];
};

// One thread's part of a row.
template <class T> struct Part {
    static constexpr int V = 16 / sizeof(T);
    long long start;  // where the row's first vector begins, in elements of the array
    int C, shift;     // the row's first element is number `shift` of that vector
    int chunks;

    __device__ Part(long long row, long long C) : C((int)C)
    {
        shift = (int)(row * C % V);
        start = row * C - shift;
        chunks = (int)((shift + C + V - 1) / V + HELD * blockDim.x - 1) / (int)(HELD * blockDim.x);
    }

    // The column of a vector's first element: below 0 or beyond C - V where neighbours share the vector.
    __device__ int column(int chunk, int i) const
    {
        return ((chunk * HELD + i) * (int)blockDim.x + (int)threadIdx.x) * V - shift;
    }

    __device__ void load(const T* X, int chunk, Vector<T> (&x)[HELD]) const
    {
#pragma unroll
        for (int i = 0; i < HELD; ++i) {
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

    __device__ void store(T* Y, int chunk, const Vector<T> (&y)[HELD]) const
    {
#pragma unroll
        for (int i = 0; i < HELD; ++i) {
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
        for (int i = 0; i < HELD; ++i) {
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
