// The windows of images as columns of a matrix, and back: convolution is then a matrix product.
//
// X: (images, *sizes)   columns: (images, k, *out), k the positions within a window   images: n c of them
// Bytes: columns are k times as large as X; they are written once and read once by the product.

// columns[k, p] = what position k of the window at place p sees, 0 in the padding
template <class T> __device__ void windows_to_columns(const T* X, T* columns, long long images, Geometry g)
{
    const long long i = index_of_thread(), places = g.places();
    if (i >= images * places) return;
    const T* image = X + i / places * g.pixels();
    T* column = columns + i / places * g.positions() * places + i % places;
    g.each_position(i % places, [&](int k, long long pixel) {
        column[k * places] = pixel < 0 ? narrow<T>(0.0f) : image[pixel];
    });
}

// X = at each pixel, the sum over the windows that see it
template <class T> __device__ void columns_to_windows(const T* columns, T* X, long long images, Geometry g)
{
    using A = typename Wide<T>::type;
    const long long i = index_of_thread(), pixels = g.pixels(), places = g.places();
    if (i >= images * pixels) return;
    const T* column = columns + i / pixels * g.positions() * places;
    A sum = 0;
    g.each_window(i % pixels, [&](int k, long long place) { sum += widen(column[k * places + place]); });
    X[i] = narrow<T>(sum);
}

#define KERNELS(T, NAME)                                                                           \
    KERNEL windows_to_columns_##NAME(const T* X, T* columns, long long images, GEOMETRY)           \
    {                                                                                              \
        windows_to_columns(X, columns, images, GEOMETRY_OF);                                       \
    }                                                                                              \
    KERNEL columns_to_windows_##NAME(const T* columns, T* X, long long images, GEOMETRY)           \
    {                                                                                              \
        columns_to_windows(columns, X, images, GEOMETRY_OF);                                       \
    }
