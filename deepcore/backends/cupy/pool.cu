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
    POOL(max_pool, T, unsigned char, NAME)                 \
    POOL(max_pool_of_many, T, int, NAME)                   \
    POOL_BACKWARD(max_pool_backward, T, unsigned char, NAME) \
    POOL_BACKWARD(max_pool_of_many_backward, T, int, NAME)
