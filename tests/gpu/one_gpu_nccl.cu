// A stand-in for NCCL between ranks that share one GPU, which NCCL itself refuses: as much of it as minimo calls,
// simple and slow, so that all that ranks say to each other can be checked on a machine with one GPU. A library, to be
// named in MINIMO_NCCL_LIBRARY. Ranks are processes (through CUDA IPC) or threads of one. Every rank makes every call,
// groups of sends and receives too; memory is freed with the process.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace {

constexpr int kMostRanks = 8, kThreads = 1024;
constexpr int64_t kPiece = 1 << 20;  // bytes of a rank that lie in the arena at a time
constexpr int kSuccess = 0, kUnhandledCudaError = 1, kInvalidUsage = 5;
constexpr int kUint8 = 1, kFloat32 = 7;  // ncclDataType_t; int8 is 0

// Of all ranks. A rank fills its place of one half, tells which meeting it has come to, and reads all places once every
// rank has come; the half is filled again two meetings later, when all have been at the one between, so have read.
struct Arena {
  uint32_t met[kMostRanks];
  int64_t sizes[2][kMostRanks][kMostRanks];  // of groups: bytes from, to
  uint8_t place[2][kMostRanks][kPiece];
};

struct View {
  Arena* arena;
  int rank, ranks;
  uint32_t* meetings;           // this rank's, device
  volatile uint32_t* aborted;   // host
};

struct Message {
  uint8_t* data;
  int64_t bytes;
};
struct Group {
  Message send[kMostRanks], receive[kMostRanks];
};

__device__ void meet(const View& v, uint32_t meeting) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(v.arena->met + v.rank), "r"(meeting) : "memory");
    for (int r = 0; r < v.ranks; ++r) {
      uint32_t seen;
      do {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(v.arena->met + r) : "memory");
      } while (static_cast<int32_t>(seen - meeting) < 0 && *v.aborted == 0);
    }
  }
  __syncthreads();
}

__device__ uint32_t* place(const View& v, uint32_t meeting, int rank) {
  return reinterpret_cast<uint32_t*>(v.arena->place[meeting & 1][rank]);
}

enum class Give { kAll, kSum, kShareOfSum, kRoot };

__global__ void __launch_bounds__(kThreads) gather(View v, const uint32_t* mine, uint32_t* out, int64_t words,
                                                   Give give, int root) {
  const int64_t share = words / v.ranks;
  uint32_t meeting = *v.meetings;
  for (int64_t at = 0; at < words; at += kPiece / 4) {
    const int64_t count = min(words - at, kPiece / 4);
    ++meeting;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) place(v, meeting, v.rank)[i] = mine[at + i];
    meet(v, meeting);
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      float total = 0;
      for (int r = 0; r < v.ranks; ++r) {
        const uint32_t word = __ldcg(place(v, meeting, r) + i);
        total += __uint_as_float(word);
        if (give == Give::kAll) out[r * words + at + i] = word;
        if (give == Give::kRoot && r == root) out[at + i] = word;
      }
      if (give == Give::kSum) out[at + i] = __float_as_uint(total);
      if (give == Give::kShareOfSum && (at + i) / share == v.rank) out[(at + i) % share] = __float_as_uint(total);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *v.meetings = meeting;
}

// Copies what [first, first + bytes) of a stream has of a message that begins there at `begin`.
__device__ void copy_part(const Message& m, int64_t begin, int64_t first, uint32_t* piece, bool out) {
  const int64_t from = max(begin, first), to = min(begin + m.bytes, first + kPiece);
  auto* data = reinterpret_cast<uint32_t*>(m.data);
  for (int64_t i = from / 4 + threadIdx.x; i < to / 4; i += kThreads) {
    if (out) {
      piece[i - first / 4] = data[i - begin / 4];
    } else {
      data[i - begin / 4] = __ldcg(piece + i - first / 4);
    }
  }
}

// A rank's messages to all others are one stream.
__global__ void __launch_bounds__(kThreads) exchange(View v, Group group) {
  uint32_t meeting = *v.meetings + 1;
  if (threadIdx.x < v.ranks) v.arena->sizes[meeting & 1][v.rank][threadIdx.x] = group.send[threadIdx.x].bytes;
  meet(v, meeting);
  int64_t begins[kMostRanks] = {}, longest = 0;  // of what each rank sends to this one
  for (int r = 0; r < v.ranks; ++r) {
    int64_t length = 0;
    for (int to = 0; to < v.ranks; ++to) {
      if (to == v.rank) begins[r] = length;
      length += __ldcg(&v.arena->sizes[meeting & 1][r][to]);
    }
    longest = max(longest, length);
  }
  for (int64_t first = 0; first < longest; first += kPiece) {
    ++meeting;
    int64_t begin = 0;
    for (int to = 0; to < v.ranks; ++to) {
      copy_part(group.send[to], begin, first, place(v, meeting, v.rank), true);
      begin += group.send[to].bytes;
    }
    meet(v, meeting);
    for (int r = 0; r < v.ranks; ++r) copy_part(group.receive[r], begins[r], first, place(v, meeting, r), false);
  }
  __syncthreads();
  if (threadIdx.x == 0) *v.meetings = meeting;
}

struct Card {  // what a unique id holds
  int64_t process;
  Arena* arena;
  cudaIpcMemHandle_t handle;
};
static_assert(sizeof(Card) <= 128);

int Code(cudaError_t code) { return code == cudaSuccess ? kSuccess : kUnhandledCudaError; }

}  // namespace

struct ncclUniqueId {
  char internal[128];
};
struct ncclComm {
  View view = {};
  Group group = {};
};

extern "C" {

int ncclGetVersion(int* version) {
  *version = 0;
  return kSuccess;
}
const char* ncclGetErrorString(int code) {
  return code == kSuccess ? "no error" : code == kInvalidUsage ? "not in the stand-in for one GPU" : "CUDA error";
}
const char* ncclGetLastError(ncclComm*) { return cudaGetErrorString(cudaPeekAtLastError()); }

int ncclGetUniqueId(ncclUniqueId* id) {
  Card card = {};
  card.process = getpid();
  cudaError_t code = cudaMalloc(reinterpret_cast<void**>(&card.arena), sizeof(Arena));
  if (code == cudaSuccess) code = cudaMemset(card.arena, 0, sizeof(Arena));
  if (code == cudaSuccess) code = cudaDeviceSynchronize();
  if (code == cudaSuccess) code = cudaIpcGetMemHandle(&card.handle, card.arena);
  std::memcpy(id->internal, &card, sizeof card);
  return Code(code);
}

int ncclCommInitRank(ncclComm** comm, int ranks, ncclUniqueId id, int rank) {
  if (ranks > kMostRanks) return kInvalidUsage;
  auto* made = new (std::nothrow) ncclComm;
  if (made == nullptr) return kUnhandledCudaError;
  Card card;
  std::memcpy(&card, id.internal, sizeof card);
  View& v = made->view;
  v.arena = card.arena, v.rank = rank, v.ranks = ranks;
  cudaError_t code = cudaSuccess;
  if (card.process != getpid()) {
    code = cudaIpcOpenMemHandle(reinterpret_cast<void**>(&v.arena), card.handle, cudaIpcMemLazyEnablePeerAccess);
  }
  if (code == cudaSuccess) code = cudaMalloc(reinterpret_cast<void**>(&v.meetings), 4);
  if (code == cudaSuccess) code = cudaMemset(v.meetings, 0, 4);
  uint32_t* aborted = nullptr;
  if (code == cudaSuccess) code = cudaHostAlloc(reinterpret_cast<void**>(&aborted), 4, cudaHostAllocMapped);
  if (code == cudaSuccess) *aborted = 0;
  v.aborted = aborted;
  if (code == cudaSuccess) code = cudaDeviceSynchronize();
  *comm = made;
  return Code(code);
}

int ncclCommDestroy(ncclComm*) { return kSuccess; }
int ncclCommAbort(ncclComm* comm) {
  *comm->view.aborted = 1;
  return kSuccess;
}
int ncclCommGetAsyncError(ncclComm*, int* code) {
  *code = kSuccess;
  return kSuccess;
}

static int Gather(const void* send, void* receive, size_t count, int type, Give give, int root, ncclComm* comm,
                  cudaStream_t stream) {
  const bool sums = give == Give::kSum || give == Give::kShareOfSum;
  const size_t bytes = type == kFloat32 ? count * 4 : count;
  if (bytes % 4 != 0 || (type != kFloat32 && (sums || type > kUint8))) return kInvalidUsage;
  gather<<<1, kThreads, 0, stream>>>(comm->view, static_cast<const uint32_t*>(send), static_cast<uint32_t*>(receive),
                                     static_cast<int64_t>(bytes / 4), give, root);
  return Code(cudaGetLastError());
}
int ncclAllReduce(const void* send, void* receive, size_t count, int type, int, ncclComm* comm, cudaStream_t stream) {
  return Gather(send, receive, count, type, Give::kSum, 0, comm, stream);
}
int ncclAllGather(const void* send, void* receive, size_t count, int type, ncclComm* comm, cudaStream_t stream) {
  return Gather(send, receive, count, type, Give::kAll, 0, comm, stream);
}
int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int, ncclComm* comm,
                      cudaStream_t stream) {
  return Gather(send, receive, count * comm->view.ranks, type, Give::kShareOfSum, 0, comm, stream);
}
int ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, ncclComm* comm,
                  cudaStream_t stream) {
  return Gather(send, receive, count, type, Give::kRoot, root, comm, stream);
}

// Of the group that this thread has begun.
static thread_local ncclComm* group_of = nullptr;
static thread_local cudaStream_t group_stream = nullptr;

int ncclGroupStart() {
  group_of = nullptr;
  return kSuccess;
}

static int Add(bool send, void* data, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream) {
  if (type > kUint8 || count % 4 != 0) return kInvalidUsage;
  if (group_of == nullptr) comm->group = {};
  group_of = comm, group_stream = stream;
  (send ? comm->group.send : comm->group.receive)[peer] = {static_cast<uint8_t*>(data), static_cast<int64_t>(count)};
  return kSuccess;
}
int ncclSend(const void* data, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream) {
  return Add(true, const_cast<void*>(data), count, type, peer, comm, stream);
}
int ncclRecv(void* data, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream) {
  return Add(false, data, count, type, peer, comm, stream);
}

int ncclGroupEnd() {
  if (group_of == nullptr) return kSuccess;
  exchange<<<1, kThreads, 0, group_stream>>>(group_of->view, group_of->group);
  return Code(cudaGetLastError());
}

}  // extern "C"
