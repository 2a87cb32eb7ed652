// The largest number of each window, and its gradient; the rules for ties and NaN are those of deepcore/ops/pool.py.
//
// Forward: a thread for each place. Backward: a thread for each pixel, which looks which windows it won, in a fixed
// order and with no atomics. images: n c of them. Bytes: X, Y and index once, as neighbours share the cache.

template <class T, class I>
__device__ void max_pool(const T* X, T* Y, I* index, long long images, Geometry g)
{
    using A = typename Wide<T>::type;
    const long long i = index_of_thread(), places = g.places();
    if (i >= images * places) return;
    const T* image = X + i / places * g.pixels();
    A best = 0;
    int winner = -1;
    g.each_position(i % places, [&](int k, long long pixel) {
        if (pixel < 0) return;
        const A x = widen(image[pixel]);
        if (winner >= 0 && !(x > best) && x == x) return;
        best = x;
        winner = k;
    });
    Y[i] = narrow<T>(best);
    index[i] = (I)winner;
}

template <class T, class I>
__device__ void max_pool_backward(const T* dY, const I* index, T* dX, long long images, Geometry g)
{
    using A = typename Wide<T>::type;
    const long long i = index_of_thread(), pixels = g.pixels();
    if (i >= images * pixels) return;
    const long long image = i / pixels * g.places();
    A sum = 0;
    g.each_window(i % pixels, [&](int k, long long place) {
        if (index[image + place] == k) sum += widen(dY[image + place]);
    });
    dX[i] = narrow<T>(sum);
}

// Y = the sum of each window, one thread each. bounds: for each axis the start and stop of each of its windows, of
// the axes d, h, w one after the other.
template <class T, class A>
__device__ void window_sum(const T* X, A* Y, const int* bounds, long long images, long long d, long long h, long long w,
                           long long out_d, long long out_h, long long out_w)
{
    const long long i = index_of_thread();
    if (i >= images * out_d * out_h * out_w) return;
    const int* of_w = bounds + 2 * (out_d + out_h + i % out_w);
    const int* of_h = bounds + 2 * (out_d + i / out_w % out_h);
    const int* of_d = bounds + 2 * (i / out_w / out_h % out_d);
    const T* image = X + i / out_w / out_h / out_d * d * h * w;
    double sum = 0;
    for (int z = of_d[0]; z < of_d[1]; ++z)
        for (int y = of_h[0]; y < of_h[1]; ++y)
            for (int x = of_w[0]; x < of_w[1]; ++x) sum += (double)widen(image[(z * h + y) * w + x]);
    Y[i] = (A)sum;
}

#define POOL(NAME, T, I, DTYPE)                                                                          \
    KERNEL NAME##_##DTYPE(const T* X, T* Y, I* index, long long images, GEOMETRY)                        \
    {                                                                                                    \
        max_pool(X, Y, index, images, GEOMETRY_OF);                                                      \
    }
#define POOL_BACKWARD(NAME, T, I, DTYPE)                                                                 \
    KERNEL NAME##_##DTYPE(const T* dY, const I* index, T* dX, long long images, GEOMETRY)                \
    {                                                                                                    \
        max_pool_backward(dY, index, dX, images, GEOMETRY_OF);                                           \
    }

// many: with over 256 positions
#define KERNELS(T, NAME)                                   \
    KERNEL window_sum_##NAME(const T* X, Wide<T>::type* Y, const int* bounds, long long images, long long d, \
                             long long h, long long w, long long out_d, long long out_h, long long out_w)    \
    {                                                                                                        \
        window_sum(X, Y, bounds, images, d, h, w, out_d, out_h, out_w);                                      \
    }                                                                                                        \
    POOL(max_pool, T, unsigned char, NAME)                 \
    POOL(max_pool_of_many, T, int, NAME)                   \
    POOL_BACKWARD(max_pool_backward, T, unsigned char, NAME) \
    POOL_BACKWARD(max_pool_of_many_backward, T, int, NAME)
