// What pooling and convolution share: windows that slide over an image in up to three dimensions.
//
// An image of fewer has sizes of 1 in front. Position k of the window at place p sees pixel stride p + dilation k - lo,
// which may lie in the padding.

struct Axis {
    int size, out, kernel, stride, lo, dilation;

    // The pixel that position k of the window at place p sees, or -1 in the padding.
    __device__ int pixel(int p, int k) const
    {
        const int x = p * stride + k * dilation - lo;
        return x >= 0 && x < size ? x : -1;
    }

    // The place whose window sees pixel x in position k, or -1.
    __device__ int place(int x, int k) const
    {
        const int start = x + lo - k * dilation;
        return start >= 0 && start % stride == 0 && start / stride < out ? start / stride : -1;
    }
};

struct Geometry {
    Axis d, h, w;

    __device__ long long pixels() const { return (long long)d.size * h.size * w.size; }
    __device__ long long places() const { return (long long)d.out * h.out * w.out; }
    __device__ int positions() const { return d.kernel * h.kernel * w.kernel; }

    // f(k, pixel) for each position k of the window at a place; pixel is -1 in the padding
    template <class F> __device__ void each_position(long long place, F f) const
    {
        const int x = place % w.out, y = place / w.out % h.out, z = place / w.out / h.out;
        int k = 0;
        for (int i = 0; i < d.kernel; ++i)
            for (int j = 0; j < h.kernel; ++j)
                for (int l = 0; l < w.kernel; ++l, ++k) {
                    const int a = d.pixel(z, i), b = h.pixel(y, j), c = w.pixel(x, l);
                    f(k, a < 0 || b < 0 || c < 0 ? -1 : ((long long)a * h.size + b) * w.size + c);
                }
    }

    // f(k, place) for each place whose window sees a pixel, in position k, in the order of k
    template <class F> __device__ void each_window(long long pixel, F f) const
    {
        const int x = pixel % w.size, y = pixel / w.size % h.size, z = pixel / w.size / h.size;
        int k = 0;
        for (int i = 0; i < d.kernel; ++i)
            for (int j = 0; j < h.kernel; ++j)
                for (int l = 0; l < w.kernel; ++l, ++k) {
                    const int a = d.place(z, i), b = h.place(y, j), c = w.place(x, l);
                    if (a >= 0 && b >= 0 && c >= 0) f(k, ((long long)a * h.out + b) * w.out + c);
                }
    }
};

__device__ inline long long index_of_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// Six numbers for each axis, as CuPy passes them.
#define AXIS(X) \
    long long X##_size, long long X##_out, long long X##_kernel, long long X##_stride, long long X##_lo, long long X##_dilation
#define GEOMETRY AXIS(d), AXIS(h), AXIS(w)
#define AXIS_OF(X) \
    {(int)X##_size, (int)X##_out, (int)X##_kernel, (int)X##_stride, (int)X##_lo, (int)X##_dilation}
#define GEOMETRY_OF Geometry{AXIS_OF(d), AXIS_OF(h), AXIS_OF(w)}
