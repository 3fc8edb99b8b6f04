// The part of NCCL's C interface that minimo calls, declared after its manual
// (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html); stable since NCCL 2.10.
#pragma once

#include <cstddef>

#include "minimo/result.h"

namespace minimo::nccl {

struct Comm;  // ncclComm
struct UniqueId {
  char internal[128];  // NCCL_UNIQUE_ID_BYTES
};

using Code = int;  // ncclResult_t
inline constexpr Code kSuccess = 0;
inline constexpr Code kInProgress = 7;

enum class DataType : int { kInt8 = 0, kUint8 = 1, kInt32 = 2, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9 };
enum class Op : int { kSum = 0 };

struct Api {
  Code (*GetVersion)(int* version) = nullptr;
  const char* (*GetErrorString)(Code) = nullptr;
  const char* (*GetLastError)(Comm*) = nullptr;
  Code (*GetUniqueId)(UniqueId*) = nullptr;
  Code (*CommInitRank)(Comm**, int ranks, UniqueId id, int rank) = nullptr;
  Code (*CommDestroy)(Comm*) = nullptr;
  Code (*CommAbort)(Comm*) = nullptr;
  Code (*CommGetAsyncError)(Comm*, Code*) = nullptr;
  Code (*AllReduce)(const void* send, void* receive, size_t count, DataType, Op, Comm*, void* stream) = nullptr;
  Code (*AllGather)(const void* send, void* receive, size_t send_count, DataType, Comm*, void* stream) = nullptr;
  Code (*ReduceScatter)(const void* send, void* receive, size_t receive_count, DataType, Op, Comm*,
                        void* stream) = nullptr;
  Code (*Broadcast)(const void* send, void* receive, size_t count, DataType, int root, Comm*, void* stream) = nullptr;
  Code (*Send)(const void* send, size_t count, DataType, int peer, Comm*, void* stream) = nullptr;
  Code (*Recv)(void* receive, size_t count, DataType, int peer, Comm*, void* stream) = nullptr;
  Code (*GroupStart)() = nullptr;
  Code (*GroupEnd)() = nullptr;
};

// Opened once per process; the library stays open. An error says what was looked for.
Result<const Api*> Open();

}  // namespace minimo::nccl
