// Class labels, judged on the device: nobody waits for the answer.

// *fit = whether each of n labels is 0 to C - 1, or the one to be ignored. One block.
template <class T>
__device__ void all_fit(const T* y, unsigned char* fit, long long n, long long C, long long ignored)
{
    const double bad = block_sum(n, [&](long long i) { return (y[i] < 0 || y[i] >= C) && y[i] != ignored ? 1.0 : 0.0; });
    if (threadIdx.x == 0) *fit = bad == 0;
}

#define KERNELS(T, NAME)                                                                                     \
    KERNEL all_fit_##NAME(const T* y, unsigned char* fit, long long n, long long C, long long ignored)       \
    {                                                                                                        \
        all_fit(y, fit, n, C, ignored);                                                                      \
    }
