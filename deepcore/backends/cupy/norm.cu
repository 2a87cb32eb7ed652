// Normalisation and its gradients, in the formulas of deepcore/ops/norm.py.
//
// Rows. X is (rows, m), a row being one group of channels of one sample with all their places: layer
// normalisation has one group and one place a channel. rms_norm is the same without mean and beta.
// The variance is that of the row in registers, in two passes. The mean is subtracted in two parts, because the
// first, rounded, is off by up to 1e-3 where numbers are around 1e4; what is left has a mean of its own. Both parts
// and r are kept, as Wide<T>: mean is (rows, 2), r (rows), and backward makes H of them and X.
// Bytes: forward reads X and writes Y; backward reads dY and X and writes dX.
// persistent: as many blocks as the GPU holds walk over the rows, and each keeps its sums of H dY and dY in
// registers; so the gradients of gamma and beta cost no further pass. It wants rows of one chunk that begin on
// 16-byte boundaries, with one place a channel. Else group_moments sums them in a pass of its own.
//
// Channels. X is (N, C, S); a thread has the same columns in every sample, as columns.cuh says.
// Mean, in two parts as of rows, and r are kept, as Wide<T>, and backward makes H of them and X; mean is (2, C).
// Bytes: training reads X twice and writes Y; backward reads dY and X twice and writes dX.

// ---- rows

// What makes H of the numbers of one row.
template <class T, bool CENTERED> struct Standard
{
    using A = typename Wide<T>::type;
    A mean, rest, r;

    __device__ Standard(A mean, A rest, A r) : mean(mean), rest(rest), r(r) {}
    __device__ Standard(const A* means, const A* rs, long long row)
        : mean(CENTERED ? means[2 * row] : (A)0), rest(CENTERED ? means[2 * row + 1] : (A)0), r(rs[row])
    {
    }
    __device__ A operator()(T x) const { return CENTERED ? (widen(x) - mean - rest) * r : widen(x) * r; }
};

template <class T, bool CENTERED>
__device__ void normalise(const T* X, const T* gamma, const T* beta, T* Y, typename Wide<T>::type* means,
                          typename Wide<T>::type* r, long long rows, long long m, long long groups, long long S,
                          double epsilon)
{
    using A = typename Wide<T>::type;
    const long long row = row_of_thread(rows);
    if (row < 0) return;
    const Part<T> part(row, m);
    Vector<T> x[HELD];
    if (part.chunks == 1) part.load(X, 0, x);
    auto mean_of = [&](auto term) {
        A sum = 0;
        for (int chunk = 0; chunk < part.chunks; ++chunk) {
            if (part.chunks > 1) part.load(X, chunk, x);
            part.each(chunk, [&](int i, int j, int) { sum += term(widen(x[i].each[j])); });
        }
        return row_sum(sum) / (A)m;
    };
    A rough = 0, rest = 0;
    if (CENTERED) {
        rough = mean_of([&](A value) { return value; });
        rest = mean_of([&](A value) { return value - rough; });
    }
    const A var = mean_of([&](A value) {
        const A d = value - rough - rest;
        return d * d;
    });
    const Standard<T, CENTERED> H(rough, rest, 1 / sqrt(var + (A)epsilon));
    const int first = (int)(row % groups * (m / S));  // the row's first channel
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        if (part.chunks > 1) part.load(X, chunk, x);
        part.each(chunk, [&](int i, int j, int c) {
            const int channel = first + (S == 1 ? c : c / (int)S);
            const A y = widen(gamma[channel]) * H(x[i].each[j]);
            x[i].each[j] = narrow<T>(CENTERED ? y + widen(beta[channel]) : y);
        });
        part.store(Y, chunk, x);
    }
    if (threadIdx.x != 0) return;
    r[row] = H.r;
    if (!CENTERED) return;
    means[2 * row] = rough;
    means[2 * row + 1] = rest;
}

// dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY
template <class T, bool CENTERED>
__device__ void normalise_backward(const T* dY, const T* X, const typename Wide<T>::type* means,
                                   const typename Wide<T>::type* r, const T* gamma, T* dX, long long rows, long long m,
                                   long long groups, long long S)
{
    using A = typename Wide<T>::type;
    const long long row = row_of_thread(rows);
    if (row < 0) return;
    const Part<T> part(row, m);
    const int first = (int)(row % groups * (m / S));
    const Standard<T, CENTERED> H(means, r, row);
    Vector<T> dy[HELD], x[HELD];
    auto dH = [&](int i, int j, int c) { return widen(gamma[first + (S == 1 ? c : c / (int)S)]) * widen(dy[i].each[j]); };
    A sum = 0, product = 0;
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        part.load(dY, chunk, dy);
        part.load(X, chunk, x);
        part.each(chunk, [&](int i, int j, int c) {
            const A dh = dH(i, j, c);
            sum += dh;
            product += dh * H(x[i].each[j]);
        });
    }
    const A mean = CENTERED ? row_sum(sum) / (A)m : (A)0, mean_of_product = row_sum(product) / (A)m;
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        if (part.chunks > 1) {
            part.load(dY, chunk, dy);
            part.load(X, chunk, x);
        }
        part.each(chunk, [&](int i, int j, int c) {
            x[i].each[j] = narrow<T>(H.r * (dH(i, j, c) - mean - H(x[i].each[j]) * mean_of_product));
        });
        part.store(dX, chunk, x);
    }
}

// The same, and partial (2, blocks * blockDim.y, C): each walker's sums of H dY and dY. Without mean, the first only.
// A thread holds 16 or less elements, so that two sums for each fit in registers; kernels.py knows it too.
template <class T, bool CENTERED>
__device__ void persistent(const T* dY, const T* X, const typename Wide<T>::type* means,
                           const typename Wide<T>::type* r, const T* gamma, T* dX, typename Wide<T>::type* partial,
                           long long rows, long long C, long long blocks)
{
    using A = typename Wide<T>::type;
    constexpr int V = Part<T>::V, FEW = sizeof(T) == 2 ? 2 : HELD;
    const long long walkers = blocks * blockDim.y, walker = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    A dgamma[FEW][V] = {}, dbeta[FEW][V] = {};
    for (long long row = walker; row < rows; row += walkers) {
        const Part<T, FEW> part(row, C);
        const Standard<T, CENTERED> H(means, r, row);
        Vector<T> dy[FEW], x[FEW];
        part.load(dY, 0, dy);
        part.load(X, 0, x);
        A sum = 0, product = 0;
        part.each(0, [&](int i, int j, int c) {
            x[i].each[j] = narrow<T>(H(x[i].each[j]));  // in place: its statistics need no registers any more
            const A value = widen(dy[i].each[j]), term = value * widen(x[i].each[j]), weight = widen(gamma[c]);
            dgamma[i][j] += term;
            if (CENTERED) dbeta[i][j] += value;
            sum += weight * value;
            product += weight * term;
        });
        const A mean = CENTERED ? row_sum(sum) / (A)C : (A)0, mean_of_product = row_sum(product) / (A)C;
        part.each(0, [&](int i, int j, int c) {
            const A dh = widen(gamma[c]) * widen(dy[i].each[j]);
            x[i].each[j] = narrow<T>(H.r * (dh - mean - widen(x[i].each[j]) * mean_of_product));
        });
        part.store(dX, 0, x);
    }
    const Part<T, FEW> part(0, C);
    part.each(0, [&](int i, int j, int c) {
        partial[walker * C + c] = dgamma[i][j];
        if (CENTERED) partial[(walkers + walker) * C + c] = dbeta[i][j];
    });
}

// partial (2, slices, W): the sums of H dY and dY over samples of W columns, W / m rows each
template <class T, bool CENTERED>
__device__ void group_moments(const T* dY, const T* X, const typename Wide<T>::type* means,
                              const typename Wide<T>::type* r, double* partial, long long n, long long W, long long m,
                              long long tiles, long long slices)
{
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, W, tiles, slices);
    column_sums<2>(columns, partial, [&](long long sample, double (&sums)[2][V]) {
        const Vector<T> dy = columns.load(dY, sample), x = columns.load(X, sample);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const long long group = min(columns.column + j, W - 1) / m;
            const Standard<T, CENTERED> H(means, r, sample * (W / m) + group);
            const double value = (double)widen(dy.each[j]);
            sums[0][j] += value * (double)H(x.each[j]);
            sums[1][j] += value;
        }
    });
}

// ---- channels

// partial (2, slices, W): the sums of H dY and dY
template <class T>
__device__ void channel_moments(const T* dY, const T* X, const typename Wide<T>::type* means,
                                const typename Wide<T>::type* r, double* partial, long long n, long long W, long long S, long long tiles, long long slices)
{
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, W, tiles, slices);
    column_sums<2>(columns, partial, [&](long long row, double (&sums)[2][V]) {
        const Vector<T> dy = columns.load(dY, row), x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const long long c = min(columns.column + j, W - 1) / S;
            const Standard<T, true> H(means[c], means[W / S + c], r[c]);
            const double value = (double)widen(dy.each[j]);
            sums[0][j] += value * (double)H(x.each[j]);
            sums[1][j] += value;
        }
    });
}

// The first number of a column's channel: the others minus it neither overflow nor cancel in their squares.
template <class T> __device__ double origin(const T* X, long long column, long long W, long long S)
{
    return column < W ? (double)widen(X[column / S * S]) : 0.0;
}

// partial (2, slices, W): the sums of d and d^2, d = X - the first number of the channel
template <class T>
__device__ void channel_deviations(const T* X, double* partial, long long n, long long W, long long S, long long tiles,
                                   long long slices)
{
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, W, tiles, slices);
    double first[V];
#pragma unroll
    for (int j = 0; j < V; ++j) first[j] = origin(X, columns.column + j, W, S);
    column_sums<2>(columns, partial, [&](long long row, double (&sums)[2][V]) {
        const Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const double d = (double)widen(x.each[j]) - first[j];
            sums[0][j] += d;
            sums[1][j] += d * d;
        }
    });
}

// means (2, C): the mean as rounded, and what rounding lost; r and var (C). One block for each channel.
template <class T>
__device__ void channel_statistics(const T* X, const double* partial, typename Wide<T>::type* means,
                                   typename Wide<T>::type* r, typename Wide<T>::type* var, long long n,
                                   long long count, long long C, long long S, double epsilon)
{
    using A = typename Wide<T>::type;
    const long long c = blockIdx.x, N = n * S;
    const double d = channel_sum(partial, count, c, C, S) / N;
    const double dd = channel_sum(partial + count * C * S, count, c, C, S) / N;
    if (threadIdx.x != 0) return;
    const double center = (double)widen(X[c * S]) + d, v = dd - d * d, variance = v < 0 ? 0 : v;
    means[c] = (A)center;
    means[C + c] = (A)(center - (double)means[c]);
    r[c] = (A)(1 / sqrt(variance + epsilon));
    var[c] = (A)variance;
}

// totals (2, C) in double, and as T: the sums of partial (2, count, C, S). One block for each channel.
template <class T, class P>
__device__ void channel_gradients(const P* partial, double* totals, T* dgamma, T* dbeta, long long count, long long C,
                                  long long S)
{
    const long long c = blockIdx.x;
    const double first = channel_sum(partial, count, c, C, S);
    const double second = dbeta ? channel_sum(partial + count * C * S, count, c, C, S) : 0.0;
    if (threadIdx.x != 0) return;
    if (totals) {
        totals[c] = first;
        totals[C + c] = second;
    }
    dgamma[c] = narrow<T>(first);
    if (dbeta) dbeta[c] = narrow<T>(second);
}

// Y = gamma H + beta, H = (X - mean) r; the mean in two parts, as numbers may be large beside their differences
template <class T>
__device__ void channel_normalise(const T* X, const typename Wide<T>::type* means, const typename Wide<T>::type* r,
                                  const T* gamma, const T* beta, T* Y, long long n, long long C, long long S, long long tiles, long long slices)
{
    using A = typename Wide<T>::type;
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, C * S, tiles, slices);
    A mean[V], rest[V], scale[V], shift[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const long long c = min((columns.column + j) / S, C - 1);
        mean[j] = means[c];
        rest[j] = means[C + c];
        scale[j] = widen(gamma[c]) * r[c];
        shift[j] = widen(beta[c]);
    }
    columns.each_row([&](long long row) {
        Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j)
            x.each[j] = narrow<T>((widen(x.each[j]) - mean[j] - rest[j]) * scale[j] + shift[j]);
        columns.store(Y, row, x);
    });
}

// dX = gamma r (dY - mean dY - H mean(H dY))
template <class T>
__device__ void channel_normalise_backward(const T* dY, const T* X, const typename Wide<T>::type* means,
                                           const typename Wide<T>::type* r, const T* gamma, const double* totals, T* dX, long long n, long long C,
                                           long long S, long long tiles, long long slices)
{
    using A = typename Wide<T>::type;
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, C * S, tiles, slices);
    A scale[V], mean[V], rest[V], mean_of_dy[V], slope[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const long long c = min((columns.column + j) / S, C - 1);
        scale[j] = widen(gamma[c]) * r[c];
        mean[j] = means[c];
        rest[j] = means[C + c];
        mean_of_dy[j] = (A)(totals[C + c] / (double)(n * S));
        slope[j] = (A)(totals[c] / (double)(n * S)) * r[c];
    }
    columns.each_row([&](long long row) {
        Vector<T> dy = columns.load(dY, row);
        const Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const A h = (widen(x.each[j]) - mean[j] - rest[j]) * slope[j];  // H mean(H dY)
            dy.each[j] = narrow<T>(scale[j] * (widen(dy.each[j]) - mean_of_dy[j] - h));
        }
        columns.store(dX, row, dy);
    });
}

// Y = gamma (X - mean) r + beta, r = (var + epsilon)^-1/2
template <class T>
__device__ void channel_inference(const T* X, const T* mean, const T* var, const T* gamma, const T* beta, T* Y,
                                  long long n, long long C, long long S, double epsilon, long long tiles,
                                  long long slices)
{
    using A = typename Wide<T>::type;
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, C * S, tiles, slices);
    A center[V], scale[V], shift[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const long long c = min((columns.column + j) / S, C - 1);
        center[j] = widen(mean[c]);
        scale[j] = widen(gamma[c]) / sqrt(widen(var[c]) + (A)epsilon);
        shift[j] = widen(beta[c]);
    }
    columns.each_row([&](long long row) {
        Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) x.each[j] = narrow<T>((widen(x.each[j]) - center[j]) * scale[j] + shift[j]);
        columns.store(Y, row, x);
    });
}

// dX = gamma r dY, and partial (2, slices, W): the sums of H dY and dY, H = (X - mean) r
template <class T>
__device__ void channel_inference_backward(const T* dY, const T* X, const T* mean, const T* var, const T* gamma, T* dX,
                                           double* partial, long long n, long long C, long long S, double epsilon,
                                           long long tiles, long long slices)
{
    using A = typename Wide<T>::type;
    constexpr int V = Columns<T>::V;
    const Columns<T> columns(n, C * S, tiles, slices);
    A center[V], r[V], scale[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const long long c = min((columns.column + j) / S, C - 1);
        center[j] = widen(mean[c]);
        r[j] = 1 / sqrt(widen(var[c]) + (A)epsilon);
        scale[j] = widen(gamma[c]) * r[j];
    }
    column_sums<2>(columns, partial, [&](long long row, double (&sums)[2][V]) {
        Vector<T> dy = columns.load(dY, row);
        const Vector<T> x = columns.load(X, row);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const A value = widen(dy.each[j]);
            sums[0][j] += (double)((widen(x.each[j]) - center[j]) * r[j] * value);
            sums[1][j] += (double)value;
            dy.each[j] = narrow<T>(scale[j] * value);
        }
        columns.store(dX, row, dy);
    });
}

#define KERNELS(T, NAME)                                                                                         \
    KERNEL group_norm_##NAME(const T* X, const T* gamma, const T* beta, T* Y, Wide<T>::type* means,              \
                             Wide<T>::type* r, long long rows, long long m, long long groups, long long S,       \
                             double epsilon)                                                                     \
    {                                                                                                            \
        normalise<T, true>(X, gamma, beta, Y, means, r, rows, m, groups, S, epsilon);                            \
    }                                                                                                            \
    KERNEL rms_norm_##NAME(const T* X, const T* gamma, T* Y, Wide<T>::type* r, long long rows, long long m,      \
                           double epsilon)                                                                       \
    {                                                                                                            \
        normalise<T, false>(X, gamma, gamma, Y, 0, r, rows, m, 1, 1, epsilon);                                   \
    }                                                                                                            \
    KERNEL group_norm_backward_##NAME(const T* dY, const T* X, const Wide<T>::type* means,                       \
                                      const Wide<T>::type* r, const T* gamma, T* dX, long long rows,             \
                                      long long m, long long groups, long long S)                                \
    {                                                                                                            \
        normalise_backward<T, true>(dY, X, means, r, gamma, dX, rows, m, groups, S);                             \
    }                                                                                                            \
    KERNEL rms_norm_backward_##NAME(const T* dY, const T* X, const Wide<T>::type* r, const T* gamma, T* dX,      \
                                    long long rows, long long m)                                                 \
    {                                                                                                            \
        normalise_backward<T, false>(dY, X, 0, r, gamma, dX, rows, m, 1, 1);                                     \
    }                                                                                                            \
    KERNEL layer_norm_persistent_##NAME(const T* dY, const T* X, const Wide<T>::type* means,                     \
                                        const Wide<T>::type* r, const T* gamma, T* dX,                           \
                                        Wide<T>::type* partial, long long rows, long long C, long long blocks)   \
    {                                                                                                            \
        persistent<T, true>(dY, X, means, r, gamma, dX, partial, rows, C, blocks);                               \
    }                                                                                                            \
    KERNEL rms_norm_persistent_##NAME(const T* dY, const T* X, const Wide<T>::type* r, const T* gamma, T* dX,    \
                                      Wide<T>::type* partial, long long rows, long long C, long long blocks)     \
    {                                                                                                            \
        persistent<T, false>(dY, X, 0, r, gamma, dX, partial, rows, C, blocks);                                  \
    }                                                                                                            \
    KERNEL group_moments_##NAME(const T* dY, const T* X, const Wide<T>::type* means, const Wide<T>::type* r,     \
                                double* partial, long long n, long long W, long long m, long long tiles,         \
                                long long slices)                                                                \
    {                                                                                                            \
        group_moments<T, true>(dY, X, means, r, partial, n, W, m, tiles, slices);                                \
    }                                                                                                            \
    KERNEL rms_moments_##NAME(const T* dY, const T* X, const Wide<T>::type* r, double* partial, long long n,     \
                              long long W, long long m, long long tiles, long long slices)                       \
    {                                                                                                            \
        group_moments<T, false>(dY, X, 0, r, partial, n, W, m, tiles, slices);                                   \
    }                                                                                                            \
    KERNEL walker_gradients_##NAME(const Wide<T>::type* partial, T* dgamma, T* dbeta, long long count,           \
                                   long long C)                                                                  \
    {                                                                                                            \
        channel_gradients<T>(partial, (double*)0, dgamma, dbeta, count, C, 1);                                   \
    }                                                                                                            \
    KERNEL channel_moments_##NAME(const T* dY, const T* X, const Wide<T>::type* means, const Wide<T>::type* r,   \
                                  double* partial, long long n, long long W, long long S, long long tiles,       \
                                  long long slices)                                                              \
    {                                                                                                            \
        channel_moments(dY, X, means, r, partial, n, W, S, tiles, slices);                                       \
    }                                                                                                            \
    KERNEL channel_deviations_##NAME(const T* X, double* partial, long long n, long long W, long long S,         \
                                     long long tiles, long long slices)                                          \
    {                                                                                                            \
        channel_deviations(X, partial, n, W, S, tiles, slices);                                                  \
    }                                                                                                            \
    KERNEL channel_statistics_##NAME(const T* X, const double* partial, Wide<T>::type* means, Wide<T>::type* r,  \
                                     Wide<T>::type* var, long long n, long long count, long long C,              \
                                     long long S, double epsilon)                                                \
    {                                                                                                            \
        channel_statistics(X, partial, means, r, var, n, count, C, S, epsilon);                                  \
    }                                                                                                            \
    KERNEL channel_gradients_##NAME(const double* partial, double* totals, T* dgamma, T* dbeta, long long count, \
                                    long long C, long long S)                                                    \
    {                                                                                                            \
        channel_gradients<T>(partial, totals, dgamma, dbeta, count, C, S);                                       \
    }                                                                                                            \
    KERNEL channel_normalise_##NAME(const T* X, const Wide<T>::type* means, const Wide<T>::type* r,              \
                                    const T* gamma, const T* beta, T* Y, long long n, long long C,               \
                                    long long S, long long tiles, long long slices)                              \
    {                                                                                                            \
        channel_normalise(X, means, r, gamma, beta, Y, n, C, S, tiles, slices);                                  \
    }                                                                                                            \
    KERNEL channel_normalise_backward_##NAME(const T* dY, const T* X, const Wide<T>::type* means,                \
                                             const Wide<T>::type* r, const T* gamma, const double* totals, T* dX,\
                                             long long n, long long C, long long S, long long tiles,             \
                                             long long slices)                                                   \
    {                                                                                                            \
        channel_normalise_backward(dY, X, means, r, gamma, totals, dX, n, C, S, tiles, slices);                  \
    }                                                                                                            \
    KERNEL channel_inference_##NAME(const T* X, const T* mean, const T* var, const T* gamma, const T* beta,      \
                                    T* Y, long long n, long long C, long long S, double epsilon,                 \
                                    long long tiles, long long slices)                                           \
    {                                                                                                            \
        channel_inference(X, mean, var, gamma, beta, Y, n, C, S, epsilon, tiles, slices);                        \
    }                                                                                                            \
    KERNEL channel_inference_backward_##NAME(const T* dY, const T* X, const T* mean, const T* var,               \
                                             const T* gamma, T* dX, double* partial, long long n, long long C,   \
                                             long long S, double epsilon, long long tiles, long long slices)     \
    {                                                                                                            \
        channel_inference_backward(dY, X, mean, var, gamma, dX, partial, n, C, S, epsilon, tiles, slices);       \
    }
