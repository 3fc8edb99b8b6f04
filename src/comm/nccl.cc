#include "comm/nccl.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <vector>

#include "base/check.h"
#include "base/error.h"

namespace minimo {
namespace nccl {
namespace {

constexpr char kName[] = "libnccl.so.2";

// Where Python packages keep it (PyTorch brings its own), for machines without a system-wide one.
std::vector<std::string> Places() {
  std::vector<std::string> patterns;
  for (const char* root : {std::getenv("VIRTUAL_ENV"), std::getenv("CONDA_PREFIX")}) {
    if (root != nullptr) patterns.push_back(fmt::format("{}/lib/python3*/site-packages", root));
  }
  for (const char* packages : {"/usr/lib/python3/dist-packages", "/usr/local/lib/python3*/dist-packages",
                               "/usr/local/lib/python3*/site-packages", "/opt/*/lib/python3*/site-packages",
                               "/opt/*/.venv/lib/python3*/site-packages"}) {
    patterns.push_back(packages);
  }
  std::vector<std::string> places;
  for (const std::string& pattern : patterns) {
    glob_t found = {};
    if (glob((pattern + "/nvidia/nccl/lib/" + kName).c_str(), 0, nullptr, &found) == 0) {
      places.insert(places.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
    }
    globfree(&found);
  }
  return places;
}

Result<Api> Load() {
  // NVLink multicast can leave a host's switches in a state that only a reset mends; who wants it asks for it.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  const char* override_path = std::getenv("MINIMO_NCCL_LIBRARY");
  std::string path = override_path != nullptr ? override_path : kName;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    const std::string why = reason != nullptr ? reason : path;
    for (const std::string& place : override_path == nullptr ? Places() : std::vector<std::string>()) {
      if ((library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) == nullptr) continue;
      path = place;
      break;
    }
    if (library == nullptr) {
      return Errorf("more than one GPU needs NCCL, which cannot be opened: {} (install libnccl2, or name the file in "
                    "MINIMO_NCCL_LIBRARY)", why);
    }
  }
  Api api;
  std::string missing;
  const auto find = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_reference_t<decltype(*function)>>(dlsym(library, name));
    if (*function == nullptr) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", name);
  };
  find("ncclGetVersion", &api.GetVersion);
  find("ncclGetErrorString", &api.GetErrorString);
  find("ncclGetLastError", &api.GetLastError);
  find("ncclGetUniqueId", &api.GetUniqueId);
  find("ncclCommInitRank", &api.CommInitRank);
  find("ncclCommDestroy", &api.CommDestroy);
  find("ncclCommAbort", &api.CommAbort);
  find("ncclCommGetAsyncError", &api.CommGetAsyncError);
  find("ncclAllReduce", &api.AllReduce);
  find("ncclAllGather", &api.AllGather);
  find("ncclReduceScatter", &api.ReduceScatter);
  find("ncclBroadcast", &api.Broadcast);
  find("ncclSend", &api.Send);
  find("ncclRecv", &api.Recv);
  find("ncclGroupStart", &api.GroupStart);
  find("ncclGroupEnd", &api.GroupEnd);
  if (!missing.empty()) {
    return Errorf("{} is not the NCCL that minimo expects (2.13 or later): it lacks {}", path, missing);
  }
  return api;
}

}  // namespace

Result<const Api*> Open() {
  static const Result<Api> api = Load();
  if (!api.ok()) return api.error();
  return &api.value();
}

}  // namespace nccl

Result<int> NcclCommunicator::Version() {
  MINIMO_ASSIGN(const nccl::Api* api, nccl::Open());
  int version = 0;
  if (api->GetVersion(&version) != nccl::kSuccess) return Errorf("NCCL does not tell its version");
  return version;
}

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(Communicator& host) {
  const auto api = nccl::Open();
  // All ranks learn whether all have NCCL before any waits for the others inside it.
  float lacking[1] = {api.ok() ? 0.0f : 1.0f};
  MINIMO_TRY(host.AllReduceSum(lacking));
  if (!api.ok()) return api.error();
  if (lacking[0] != 0) return Errorf("NCCL is missing on {} of {} ranks", lacking[0], host.size());

  nccl::UniqueId id{};
  nccl::Code code = nccl::kSuccess;
  if (host.rank() == 0) code = (*api)->GetUniqueId(&id);
  MINIMO_TRY(host.Broadcast(std::as_writable_bytes(std::span(&id, 1)), 0));
  if (code != nccl::kSuccess) {
    host.Abort(fmt::format("NCCL's unique id: {}", (*api)->GetErrorString(code)));
    return host.failure();
  }
  nccl::Comm* comm = nullptr;
  code = (*api)->CommInitRank(&comm, host.size(), id, host.rank());
  if (code != nccl::kSuccess) {
    const char* detail = (*api)->GetLastError(nullptr);
    host.Abort(fmt::format("NCCL on rank {} of {}: {} ({})", host.rank(), host.size(), (*api)->GetErrorString(code),
                           detail != nullptr ? detail : ""));
    return host.failure();
  }
  return std::unique_ptr<NcclCommunicator>(new NcclCommunicator(**api, comm, host.rank(), host.size()));
}

NcclCommunicator::~NcclCommunicator() {
  if (!aborted_) api_.CommDestroy(comm_);
}

Status NcclCommunicator::Checked(nccl::Code code, const char* call) const {
  if (code == nccl::kSuccess || code == nccl::kInProgress) return {};
  const char* detail = api_.GetLastError(comm_);
  return Errorf("NCCL {} on rank {} of {}: {} ({})", call, rank_, size_, api_.GetErrorString(code),
                detail != nullptr ? detail : "");
}

Status NcclCommunicator::AllReduceSum(void* values, int64_t count, nccl::DataType type, CudaStream stream) {
  return Checked(api_.AllReduce(values, values, static_cast<size_t>(count), type, nccl::Op::kSum, comm_, stream),
                 "all-reduce");
}

Status NcclCommunicator::AllGather(const void* mine, void* all, int64_t count, nccl::DataType type,
                                   CudaStream stream) {
  return Checked(api_.AllGather(mine, all, static_cast<size_t>(count), type, comm_, stream), "all-gather");
}

Status NcclCommunicator::ReduceScatterSum(const void* values, void* mine, int64_t count, nccl::DataType type,
                                          CudaStream stream) {
  return Checked(api_.ReduceScatter(values, mine, static_cast<size_t>(count), type, nccl::Op::kSum, comm_, stream),
                 "reduce-scatter");
}

Status NcclCommunicator::Broadcast(void* data, int64_t bytes, int root, CudaStream stream) {
  return Checked(api_.Broadcast(data, data, static_cast<size_t>(bytes), nccl::DataType::kUint8, root, comm_, stream),
                 "broadcast");
}

Status NcclCommunicator::AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* receive,
                                   std::span<const int64_t> receive_bytes, CudaStream stream) {
  CHECK(std::ssize(send_bytes) == size_ && std::ssize(receive_bytes) == size_);
  const auto* from = static_cast<const std::byte*>(send);
  auto* to = static_cast<std::byte*>(receive);
  MINIMO_TRY(Checked(api_.GroupStart(), "group"));
  Status status;
  for (int r = 0; r < size_ && status.ok(); ++r) {
    if (send_bytes[r] > 0) {
      status = Checked(api_.Send(from, static_cast<size_t>(send_bytes[r]), nccl::DataType::kUint8, r, comm_, stream),
                       "send");
    }
    if (receive_bytes[r] > 0 && status.ok()) {
      status = Checked(api_.Recv(to, static_cast<size_t>(receive_bytes[r]), nccl::DataType::kUint8, r, comm_, stream),
                       "receive");
    }
    from += send_bytes[r];
    to += receive_bytes[r];
  }
  const Status ended = Checked(api_.GroupEnd(), "all-to-all");
  return status.ok() ? ended : status;
}

Status NcclCommunicator::Check() {
  nccl::Code code = nccl::kSuccess;
  MINIMO_TRY(Checked(api_.CommGetAsyncError(comm_, &code), "state"));
  return Checked(code, "kernel");
}

void NcclCommunicator::Abort() {
  std::lock_guard lock(abort_mutex_);
  if (aborted_) return;
  aborted_ = true;
  api_.CommAbort(comm_);
}

}  // namespace minimo
