// Softmax and its logarithm along the rows of (n, C), and their gradients.
//
// Bytes: forward reads X once (twice where a row is longer than a chunk) and writes Y; backward reads dY and Y
// and writes dX. The floor is 2 n C sizeof(T) forward and 3 n C sizeof(T) backward.

// The largest entry of a row and the sum of e^(x - max) over all others, of which `ties` are equal to it.
// A row that is all -inf, or holds NaN or inf, has others = NaN.
template <class A> struct Top {
    A max, others;

    // others over what one thread has seen so far; ties counts what equals max, itself included
    A ties;
    __device__ Top() : max(-infinity<A>()), others(0), ties(0) {}

    __device__ void rise(A to)
    {
        if (!(to > max)) return;
        others = (others + ties) * exp(max - to);
        ties = 0;
        max = to;
    }

    __device__ void add(A x)
    {
        if (x == max) ties += 1;
        else if (x != -infinity<A>()) others += exp(x - max);
    }

    __device__ void over_row()
    {
        rise(row_max(max));
        others = row_sum(others) + (row_sum(ties) - 1);  // exact where the largest stands alone
        others += max - max;                             // NaN from an infinite one
    }
};

template <class T> __device__ Top<typename Wide<T>::type> top_of_row(const Part<T>& part, const T* X, Vector<T> (&x)[HELD])
{
    using A = typename Wide<T>::type;
    Top<A> top;
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        part.load(X, chunk, x);
        A max = top.max;
        part.each(chunk, [&](int i, int j, int) { max = Largest()(widen(x[i].each[j]), max); });
        top.rise(max);
        part.each(chunk, [&](int i, int j, int) { top.add(widen(x[i].each[j])); });
    }
    top.over_row();
    return top;
}

// Y = e^(X - max) / sum, or its logarithm X - max - log(1 + others), to full accuracy near 0
template <class T, bool LOG> __device__ void softmax(const T* X, T* Y, long long n, long long C)
{
    using A = typename Wide<T>::type;
    const long long row = row_of_thread(n);
    if (row < 0) return;
    const Part<T> part(row, C);
    Vector<T> x[HELD];
    const Top<A> top = top_of_row(part, X, x);
    const A sum = 1 + top.others, log_sum = log1p(top.others);
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        if (part.chunks > 1) part.load(X, chunk, x);
        part.each(chunk, [&](int i, int j, int) {
            const A d = widen(x[i].each[j]) - top.max;
            x[i].each[j] = narrow<T>(LOG ? d - log_sum : exp(d) / sum);
        });
        part.store(Y, chunk, x);
    }
}

// dX = Y (dY - sum Y dY), or of the logarithm dX = dY - e^Y sum dY
template <class T, bool LOG>
__device__ void softmax_backward(const T* dY, const T* Y, T* dX, long long n, long long C)
{
    using A = typename Wide<T>::type;
    const long long row = row_of_thread(n);
    if (row < 0) return;
    const Part<T> part(row, C);
    Vector<T> dy[HELD], y[HELD];
    A sum = 0;
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        part.load(dY, chunk, dy);
        if (!LOG || part.chunks == 1) part.load(Y, chunk, y);
        part.each(chunk, [&](int i, int j, int) {
            sum += LOG ? widen(dy[i].each[j]) : widen(dy[i].each[j]) * widen(y[i].each[j]);
        });
    }
    sum = row_sum(sum);
    for (int chunk = 0; chunk < part.chunks; ++chunk) {
        if (part.chunks > 1) {
            part.load(dY, chunk, dy);
            part.load(Y, chunk, y);
        }
        part.each(chunk, [&](int i, int j, int) {
            const A p = widen(y[i].each[j]), dp = widen(dy[i].each[j]);
            y[i].each[j] = narrow<T>(LOG ? dp - exp(p) * sum : p * (dp - sum));
        });
        part.store(dX, chunk, y);
    }
}

#define KERNELS(T, NAME)                                                                                \
    KERNEL softmax_##NAME(const T* X, T* Y, long long n, long long C) { softmax<T, false>(X, Y, n, C); }    \
    KERNEL log_softmax_##NAME(const T* X, T* Y, long long n, long long C) { softmax<T, true>(X, Y, n, C); } \
    KERNEL softmax_backward_##NAME(const T* dY, const T* Y, T* dX, long long n, long long C)                \
    {                                                                                                       \
        softmax_backward<T, false>(dY, Y, dX, n, C);                                                        \
    }                                                                                                       \
    KERNEL log_softmax_backward_##NAME(const T* dY, const T* Y, T* dX, long long n, long long C)            \
    {                                                                                                       \
        softmax_backward<T, true>(dY, Y, dX, n, C);                                                         \
    }
