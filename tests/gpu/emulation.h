// What the kernels need of CUDA, on the host: a grid runs block after block, each thread of a block a fiber.
//
// A fiber runs until it waits for others, so that a schedule is the order in which warps get on: it is drawn
// at random from a seed, and mostly stays with one warp, so that a warp may run far ahead of another. Shared
// memory holds NaN before each block. A barrier that some threads never reach, a shuffle with a lane that has
// left, and a 16-byte access that is off its boundary are errors, in words.
// It sees no speed, no memory ordering, and no difference between two lanes of a warp and two warps.
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
__shared__ __attribute__((used)) char at_least_one_byte;  // or the section isn't there
extern char __start_shared_memory[], __stop_shared_memory[];

struct dim3 {
    unsigned x, y;
};
static dim3 threadIdx, blockIdx, blockDim;
using std::max;
using std::min;

namespace emulation {

struct Failure {
    std::string why;
};

enum Wait { NOTHING, WARP, BLOCK, LEFT };

struct Fiber {
    ucontext_t context;  // where it starts; from then on its place is `here`, as longjmp asks no system call
    jmp_buf here;
    bool started;
    std::vector<char> stack;
    Wait wait;
};

const size_t STACK = 1 << 16;
static std::vector<Fiber> fibers;
static std::vector<uint64_t> lanes;  // what each thread shows to its warp
static jmp_buf scheduler;
static std::function<void()> kernel;
static unsigned current;
static std::string failure;

inline void wait_for(Wait others)
{
    fibers[current].wait = others;
    if (!_setjmp(fibers[current].here)) _longjmp(scheduler, 1);
    if (!failure.empty()) throw Failure{failure};
}

inline void thread()
{
    try {
        kernel();
    } catch (const Failure& f) {
        if (failure.empty()) failure = f.why;
    }
    fibers[current].wait = LEFT;
    _longjmp(scheduler, 1);
}

inline unsigned threads() { return blockDim.x * blockDim.y; }

// Releases the threads from `first` on if all of them wait for the same, but those that have left.
inline void release(unsigned first, unsigned count, Wait what)
{
    unsigned waiting = 0, left = 0;
    for (unsigned t = first; t < first + count; ++t) {
        waiting += fibers[t].wait == what;
        left += fibers[t].wait == LEFT;
    }
    if (!waiting || waiting + left < count) return;
    if (what == WARP && left) failure = "a shuffle names a lane that has left";
    for (unsigned t = first; t < first + count; ++t)
        if (fibers[t].wait == what) fibers[t].wait = NOTHING;
}

inline void resume(unsigned t)
{
    current = t;
    threadIdx = {t % blockDim.x, t / blockDim.x};
    if (_setjmp(scheduler)) return;
    if (fibers[t].started) _longjmp(fibers[t].here, 1);
    fibers[t].started = true;
    setcontext(&fibers[t].context);
}

inline void run_block(std::mt19937& random)
{
    memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    fibers.resize(threads());
    lanes.assign(threads(), ~0ull);
    for (Fiber& f : fibers) {
        f.stack.resize(STACK);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = STACK;
        makecontext(&f.context, thread, 0);
        f.wait = NOTHING;
        f.started = false;
    }
    const unsigned warps = threads() / 32;
    unsigned warp = 0;
    for (;;) {
        auto runnable = [&](unsigned w) {
            for (unsigned t = 32 * w; t < 32 * w + 32; ++t)
                if (fibers[t].wait == NOTHING) return true;
            return false;
        };
        std::vector<unsigned> ready;
        for (unsigned w = 0; w < warps; ++w)
            if (runnable(w)) ready.push_back(w);
        if (ready.empty()) break;
        if (!runnable(warp) || random() % 8 == 0) warp = ready[random() % ready.size()];
        std::vector<unsigned> order(32);
        for (unsigned i = 0; i < 32; ++i) order[i] = 32 * warp + i;
        std::shuffle(order.begin(), order.end(), random);
        for (unsigned t : order)
            if (fibers[t].wait == NOTHING) resume(t);
        release(32 * warp, 32, WARP);
        release(0, threads(), BLOCK);
    }
    for (unsigned t = 0; t < threads(); ++t) {
        if (fibers[t].wait == LEFT) continue;
        if (failure.empty()) failure = "a barrier that not all threads reach";
        resume(t);  // it throws, so that its stack unwinds
    }
}

struct Launch {
    unsigned grid, x, y, seed;
};

template <class F> const char* launch(const Launch& l, F f)
{
    kernel = f;
    failure.clear();
    blockDim = {l.x, l.y};
    std::mt19937 random(l.seed);
    std::vector<unsigned> blocks(l.grid);
    for (unsigned b = 0; b < l.grid; ++b) blocks[b] = b;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (unsigned b : blocks) {
        blockIdx = {b, 0};
        run_block(random);
        if (!failure.empty()) break;
    }
    return failure.c_str();
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>)
{
    kernel(*(P*)arguments[I]...);
}

template <class... P> const char* launch_kernel(void (*kernel)(P...), const Launch& l, void** arguments)
{
    return launch(l, [=] { call(kernel, arguments, std::index_sequence_for<P...>()); });
}

}  // namespace emulation

#define EMULATE(KERNEL)                                                                      \
    extern "C" const char* emulate_##KERNEL(const emulation::Launch* l, void** arguments)    \
    {                                                                                        \
        return emulation::launch_kernel(KERNEL, *l, arguments);                              \
    }

// ---- CUDA's own names

struct alignas(16) uint4 {
    unsigned x, y, z, w;
    uint4& operator=(const uint4& from)
    {
        if (((uintptr_t)&from | (uintptr_t)this) % 16) throw emulation::Failure{"a 16-byte access off its boundary"};
        memcpy((void*)this, (const void*)&from, 16);
        return *this;
    }
};

inline void __syncthreads() { emulation::wait_for(emulation::BLOCK); }

template <class A> A __shfl_xor_sync(unsigned, A a, int lane)
{
    using namespace emulation;
    const unsigned me = current;
    memcpy(&lanes[me], &a, sizeof a);
    wait_for(WARP);
    memcpy(&a, &lanes[me ^ lane], sizeof a);
    wait_for(WARP);
    return a;
}

inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline float half_to_float(unsigned short bits)
{
    _Float16 x;
    memcpy(&x, &bits, 2);
    return x;
}

inline unsigned short float_to_half(float x)
{
    _Float16 half = x;
    unsigned short bits;
    memcpy(&bits, &half, 2);
    return bits;
}
