/* A stand-in for libcuda.so.1: device memory is memory of the host, and a launch does nothing.

   What the host does to a driver can be tested with it, and timed: it counts calls by name, keeps a list of those that order
   work on streams, and refuses what NVIDIA's documentation of the driver API says is refused:
   - CUDA_ERROR_INVALID_CONTEXT where a call needs a current context and the thread has none;
   - CUDA_ERROR_INVALID_HANDLE and _VALUE for an event, a stream or memory that is not alive;
   - CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and the capture is lost, where a thread calls what may wait while a stream is captured,
     unless the thread's capture mode allows it; _IMPLICIT for the legacy stream.
   A function of the driver that is not here is CUDA_ERROR_NOT_FOUND to whoever asks for its address. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
       NOT_READY = 600, UNSUPPORTED = 900, IMPLICIT = 906 };
enum { GLOBAL, OF_THREAD, RELAXED };
enum { MOST_NAMES = 256, MOST_ALIVE = 1 << 16, MOST_LINES = 4096 };
typedef uint64_t u64;
typedef void *handle;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread handle contexts[64];
static __thread int depth, mode;

/* -- what the tests read and set ------------------------------------------------------------------- */

static struct { const char *name; long calls; } counted[MOST_NAMES];
static struct { const char *name; u64 first, second; } lines[MOST_LINES];
static int n_counted, n_lines;
static long lacked_context;

/* Set by tests through ctypes. */
int fake_refused_allocations; /* so many of the next allocations find no memory */
int fake_fault;               /* what every call returns that may tell of an earlier failure */
int fake_busy;                /* events that are recorded while it is set have not come until it is 0 again */
int fake_blocks = 3;           /* of any kernel that a processor holds at once */
int fake_devices = 1;

static struct { u64 stream; pthread_t thread; int mode, status; } capture; /* status: 0 none, 1 active, 2 invalidated */

long fake_calls(const char *name)
{
    long sum = 0;
    for (int i = 0; i < n_counted; i++)
        if (!name || !strcmp(counted[i].name, name)) sum += counted[i].calls;
    return sum;
}

long fake_lacked_context(void) { return lacked_context; }

void fake_reset(void)
{
    for (int i = 0; i < n_counted; i++) counted[i].calls = 0;
    n_lines = 0;
    lacked_context = 0;
}

/* Write "name=calls" of all that was called, or a line "name first second" for each call that orders work. */
void fake_report(char *out, size_t size, int ordered)
{
    FILE *file = fmemopen(out, size, "w");
    for (int i = 0; !ordered && i < n_counted; i++)
        if (counted[i].calls) fprintf(file, "%s=%ld ", counted[i].name, counted[i].calls);
    for (int i = 0; ordered && i < n_lines; i++)
        fprintf(file, "%s %llu %llu\n", lines[i].name, (unsigned long long)lines[i].first, (unsigned long long)lines[i].second);
    fclose(file);
}

static int index_of(const char *name)
{
    pthread_mutex_lock(&lock);
    int i = n_counted++;
    counted[i].name = name;
    pthread_mutex_unlock(&lock);
    return i;
}

static void note(const char *name, u64 first, u64 second)
{
    pthread_mutex_lock(&lock);
    if (n_lines < MOST_LINES) {
        lines[n_lines].name = name;
        lines[n_lines].first = first;
        lines[n_lines++].second = second;
    }
    pthread_mutex_unlock(&lock);
}

#define COUNT() do { static int at = -1; if (at < 0) at = index_of(__func__); counted[at].calls++; } while (0)
#define IN_CONTEXT() do { COUNT(); if (!depth) { lacked_context++; return INVALID_CONTEXT; } if (fake_fault) return fake_fault; } while (0)
#define MAY_WAIT() do { if (breaks_capture()) return UNSUPPORTED; } while (0)

static int breaks_capture(void)
{
    if (!capture.status || mode == RELAXED || capture.mode == RELAXED) return 0;
    if (capture.mode == OF_THREAD && !pthread_equal(capture.thread, pthread_self())) return 0;
    capture.status = 2;
    return 1;
}

/* -- what is alive --------------------------------------------------------------------------------- */

enum { MEMORY = 1, HOST, EVENT, STREAM };
static struct { handle at; int kind; } alive[MOST_ALIVE];
static int n_alive;

static handle make(int kind, size_t size)
{
    handle at;
    if (posix_memalign(&at, 4096, size ? size : 1)) return 0;
    memset(at, 0, size);
    pthread_mutex_lock(&lock);
    alive[n_alive].at = at;
    alive[n_alive++].kind = kind;
    pthread_mutex_unlock(&lock);
    return at;
}

static int find(handle at, int kind)
{
    for (int i = n_alive - 1; i >= 0; i--)
        if (alive[i].at == at && alive[i].kind == kind) return i;
    return -1;
}

static int is_alive(handle at, int kind)
{
    pthread_mutex_lock(&lock);
    int i = find(at, kind);
    pthread_mutex_unlock(&lock);
    return i >= 0;
}

static int end(handle at, int kind)
{
    pthread_mutex_lock(&lock);
    int i = find(at, kind);
    if (i >= 0) alive[i] = alive[--n_alive];
    pthread_mutex_unlock(&lock);
    if (i >= 0) free(at);
    return i >= 0;
}

int fake_alive(int kind)
{
    int sum = 0;
    for (int i = 0; i < n_alive; i++) sum += alive[i].kind == kind;
    return sum;
}

static int is_stream(handle stream) { return (u64)stream <= 2 || is_alive(stream, STREAM); }

/* -- devices and contexts -------------------------------------------------------------------------- */

int cuInit(unsigned flags) { COUNT(); return flags ? INVALID_VALUE : OK; }
int cuDriverGetVersion(int *version) { COUNT(); *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { COUNT(); *count = fake_devices; return OK; }
int cuDeviceGet(int *device, int number)
{
    COUNT();
    *device = number;
    return number < 0 || number >= fake_devices ? INVALID_DEVICE : OK;
}
int cuDeviceGetName(char *name, int size, int device) { COUNT(); (void)device; snprintf(name, size, "Fake"); return OK; }
int cuDeviceGetUuid_v2(void *uuid, int device) { COUNT(); memset(uuid, device + 1, 16); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { COUNT(); (void)device; *bytes = 1ull << 37; return OK; }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    COUNT();
    (void)device;
    switch (attribute) { /* CUdevice_attribute in cuda.h; the numbers are those of an H200 */
    case 1: *value = 1024; break;      /* threads of a block */
    case 5: *value = 2147483647; break;/* blocks of a grid */
    case 8: *value = 49152; break;     /* bytes of shared memory of a block */
    case 10: *value = 32; break;       /* threads of a warp */
    case 16: *value = 132; break;      /* processors */
    case 39: *value = 2048; break;     /* threads of a processor */
    case 75: *value = 9; break;        /* compute capability */
    case 76: *value = 0; break;
    case 81: *value = 233472; break;   /* bytes of shared memory of a processor */
    case 97: *value = 232448; break;
    default: *value = 1;
    }
    return OK;
}

static handle context_of(int device) { return (handle)(uintptr_t)(0x1000 + 0x100 * device); }
static int device_of(handle context) { return (int)(((uintptr_t)context - 0x1000) / 0x100); }

int cuDevicePrimaryCtxRetain(handle *context, int device)
{
    COUNT();
    *context = context_of(device);
    return device < 0 || device >= fake_devices ? INVALID_DEVICE : OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) { COUNT(); (void)device; return OK; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { COUNT(); (void)device; *flags = 0; *active = 1; return OK; }
int cuCtxPushCurrent_v2(handle context) { COUNT(); contexts[depth++] = context; return OK; }
int cuCtxPopCurrent_v2(handle *context)
{
    COUNT();
    if (!depth) return INVALID_CONTEXT;
    *context = contexts[--depth];
    return OK;
}
int cuCtxGetCurrent(handle *context) { COUNT(); *context = depth ? contexts[depth - 1] : 0; return OK; }
int cuCtxSetCurrent(handle context)
{
    COUNT();
    if (depth) depth--;
    if (context) contexts[depth++] = context;
    return OK;
}
int cuCtxGetDevice(int *device) { IN_CONTEXT(); *device = device_of(contexts[depth - 1]); return OK; }
int cuCtxSynchronize(void) { IN_CONTEXT(); MAY_WAIT(); return OK; }

/* -- memory ---------------------------------------------------------------------------------------- */

static int allocate(handle *at, size_t size, int kind)
{
    if (breaks_capture()) return UNSUPPORTED;
    if (fake_refused_allocations > 0) {
        fake_refused_allocations--;
        return OUT_OF_MEMORY;
    }
    *at = make(kind, size);
    return *at ? OK : OUT_OF_MEMORY;
}

int cuMemAlloc_v2(u64 *address, size_t size) { IN_CONTEXT(); return allocate((handle *)address, size, MEMORY); }
int cuMemFree_v2(u64 address) { IN_CONTEXT(); MAY_WAIT(); return end((handle)address, MEMORY) ? OK : INVALID_VALUE; }
int cuMemHostAlloc(handle *at, size_t size, unsigned flags) { IN_CONTEXT(); (void)flags; return allocate(at, size, HOST); }
int cuMemFreeHost(handle at) { IN_CONTEXT(); MAY_WAIT(); return end(at, HOST) ? OK : INVALID_VALUE; }
int cuMemHostGetDevicePointer_v2(u64 *address, handle at, unsigned flags) { IN_CONTEXT(); (void)flags; *address = (u64)at; return OK; }
int cuMemGetInfo_v2(size_t *left, size_t *all) { IN_CONTEXT(); *left = *all = 1ull << 37; return OK; }
int cuMemcpyHtoD_v2(u64 to, const void *from, size_t size) { IN_CONTEXT(); MAY_WAIT(); memcpy((handle)to, from, size); return OK; }
int cuMemcpyDtoH_v2(handle to, u64 from, size_t size) { IN_CONTEXT(); MAY_WAIT(); memcpy(to, (handle)from, size); return OK; }
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t size, handle stream)
{
    IN_CONTEXT();
    note("copy", (u64)stream, size);
    memcpy((handle)to, from, size);
    return OK;
}
int cuMemsetD8_v2(u64 at, unsigned char value, size_t size) { IN_CONTEXT(); memset((handle)at, value, size); return OK; }
int cuMemsetD8Async(u64 at, unsigned char value, size_t size, handle stream)
{
    IN_CONTEXT();
    note("set", (u64)stream, size);
    memset((handle)at, value, size);
    return OK;
}
int cuPointerGetAttribute(void *value, int attribute, u64 address)
{
    COUNT();
    if (attribute == 9) *(int *)value = 0; /* the number of the device */
    else *(u64 *)value = address;
    return OK;
}

/* -- streams, events, captures --------------------------------------------------------------------- */

int cuStreamCreate(handle *stream, unsigned flags) { IN_CONTEXT(); (void)flags; *stream = make(STREAM, 8); return OK; }
int cuStreamDestroy_v2(handle stream) { IN_CONTEXT(); return end(stream, STREAM) ? OK : INVALID_HANDLE; }
int cuStreamSynchronize(handle stream) { IN_CONTEXT(); MAY_WAIT(); return is_stream(stream) ? OK : INVALID_HANDLE; }
int cuStreamGetCtx(handle stream, handle *context)
{
    IN_CONTEXT();
    *context = contexts[depth - 1];
    return is_stream(stream) ? OK : INVALID_HANDLE;
}
int cuStreamGetCtx_v2(handle stream, handle *context, handle *green) { if (green) *green = 0; return cuStreamGetCtx(stream, context); }
int cuStreamWaitEvent(handle stream, handle event, unsigned flags)
{
    IN_CONTEXT();
    (void)flags;
    if (!is_alive(event, EVENT) || !is_stream(stream)) return INVALID_HANDLE;
    note("wait", (u64)stream, (u64)event);
    return OK;
}
int cuStreamIsCapturing(handle stream, int *status)
{
    IN_CONTEXT();
    if (!is_stream(stream)) return INVALID_HANDLE;
    if (capture.status && (u64)stream <= 1 && capture.mode != RELAXED) return IMPLICIT;
    *status = capture.status && capture.stream == (u64)stream ? capture.status : 0;
    return OK;
}
int cuStreamBeginCapture_v2(handle stream, int how)
{
    IN_CONTEXT();
    if (capture.status || (u64)stream <= 1) return UNSUPPORTED;
    capture.stream = (u64)stream, capture.thread = pthread_self(), capture.mode = how, capture.status = 1;
    return OK;
}
int cuStreamEndCapture(handle stream, handle *graph)
{
    IN_CONTEXT();
    int lost = capture.status == 2;
    *graph = 0;
    if (!capture.status || capture.stream != (u64)stream) return INVALID_VALUE;
    capture.status = 0;
    return lost ? 901 : OK; /* CUDA_ERROR_STREAM_CAPTURE_INVALIDATED */
}
int cuThreadExchangeStreamCaptureMode(int *other)
{
    COUNT();
    int old = mode;
    mode = *other;
    *other = old;
    return OK;
}

int cuEventCreate(handle *event, unsigned flags) { IN_CONTEXT(); (void)flags; *event = make(EVENT, sizeof(int)); return OK; }
int cuEventDestroy_v2(handle event) { IN_CONTEXT(); return end(event, EVENT) ? OK : INVALID_HANDLE; }
int cuEventRecord(handle event, handle stream)
{
    IN_CONTEXT();
    if (!is_alive(event, EVENT) || !is_stream(stream)) return INVALID_HANDLE;
    note("record", (u64)stream, (u64)event);
    *(int *)event = fake_busy;
    return OK;
}
int cuEventQuery(handle event)
{
    COUNT();
    MAY_WAIT();
    if (!is_alive(event, EVENT)) return INVALID_HANDLE;
    if (fake_fault) return fake_fault;
    return *(int *)event && fake_busy ? NOT_READY : OK;
}
int cuEventSynchronize(handle event) { return cuEventQuery(event); }

/* -- code ------------------------------------------------------------------------------------------ */

static int libraries;
int cuLibraryLoadData(handle *library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f)
{
    IN_CONTEXT();
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    if (memcmp(code, "\177ELF", 4)) return 200; /* CUDA_ERROR_INVALID_IMAGE: no cubin */
    *library = (handle)(uintptr_t)++libraries;
    return OK;
}
int cuLibraryUnload(handle library) { COUNT(); (void)library; return OK; }
int cuLibraryGetKernel(handle *kernel, handle library, const char *name)
{
    COUNT();
    *kernel = library;
    return name && *name ? OK : NOT_FOUND;
}
int cuKernelGetFunction(handle *function, handle kernel) { IN_CONTEXT(); *function = kernel; return OK; }
int cuKernelGetAttribute(int *value, int attribute, handle kernel, int device)
{
    COUNT();
    (void)kernel, (void)device;
    *value = attribute ? 32 : 1024;
    return OK;
}
int cuFuncGetAttribute(int *value, int attribute, handle function) { IN_CONTEXT(); return cuKernelGetAttribute(value, attribute, function, 0); }
int cuModuleLoadDataEx(handle *module, const void *code, unsigned n, void *a, void *b) { return cuLibraryLoadData(module, code, 0, 0, 0, a, b, n); }
int cuModuleLoadData(handle *module, const void *code) { return cuLibraryLoadData(module, code, 0, 0, 0, 0, 0, 0); }
int cuModuleGetFunction(handle *function, handle module, const char *name) { return cuLibraryGetKernel(function, module, name); }
int cuModuleUnload(handle module) { COUNT(); (void)module; return OK; }

static int launch(handle function, unsigned blocks, unsigned threads, handle stream, void **arguments)
{
    if (!function || !is_stream(stream)) return INVALID_HANDLE;
    if (!blocks || !threads || threads > 1024 || !arguments || !arguments[0]) return INVALID_VALUE;
    note("launch", (u64)stream, blocks);
    return OK;
}
int cuLaunchKernel(handle function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   handle stream, void **arguments, void **extra)
{
    IN_CONTEXT();
    (void)shared, (void)extra;
    return launch(function, x * y * z, bx * by * bz, stream, arguments);
}
struct configuration { unsigned x, y, z, bx, by, bz, shared; handle stream; void *attributes; unsigned n; };
int cuLaunchKernelEx(const struct configuration *how, handle function, void **arguments, void **extra)
{
    IN_CONTEXT();
    (void)extra;
    return launch(function, how->x * how->y * how->z, how->bx * how->by * how->bz, how->stream, arguments);
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, handle function, int threads, size_t shared)
{
    IN_CONTEXT();
    (void)function, (void)shared, (void)threads;
    *blocks = fake_blocks;
    return OK;
}

/* -- names ----------------------------------------------------------------------------------------- */

int cuGetErrorName(int error, const char **name)
{
    static const struct { int number; const char *name; } known[] = {
        { OK, "CUDA_SUCCESS" }, { INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE" }, { OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY" },
        { INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT" }, { INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE" },
        { UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" }, { 700, "CUDA_ERROR_ILLEGAL_ADDRESS" },
    };
    *name = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == error) *name = known[i].name;
    return OK;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

int cuGetProcAddress_v2(const char *symbol, void **function, int version, u64 flags, int *status)
{
    static handle self;
    char name[128];
    (void)version, (void)flags;
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = 0;
    for (int i = 0; !*function && i < 2; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, i ? "" : "_v2");
        *function = dlsym(self, name);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *symbol, void **function, int version, u64 flags) { return cuGetProcAddress_v2(symbol, function, version, flags, 0); }
