#include "cuda/peer_memory_cuda.h"

#include <unistd.h>

#include <cstring>

namespace minimo::cuda {
namespace {

// What a rank tells the others of its inbox.
struct Card {
  char host[64];
  int64_t process;
  int32_t device;
  int32_t usable;
  uint8_t* address;
  cudaIpcMemHandle_t handle;
};

}  // namespace

PeerMemory::~PeerMemory() {
  for (void* memory : opened_) {
    if (memory != nullptr) cudaIpcCloseMemHandle(memory);
  }
}

int64_t PeerMemory::Bytes(int ranks, const Room& room) {
  return 2 * ranks * (room.values * 8 + room.many_bytes + int64_t{room.many_chunks} * 4);
}

PeerView PeerMemory::Arrange(int rank, int ranks, const Room& room) {
  PeerView view;
  view.rank = rank;
  view.ranks = ranks;
  view.values = room.values;
  view.many_at = 2 * ranks * room.values * 8;
  view.many_bytes = room.many_bytes;
  view.flags_at = view.many_at + 2 * ranks * room.many_bytes;
  view.many_chunks = room.many_chunks;
  return view;
}

Status PeerMemory::Create(Communicator& host, const Room& room) {
  Status status = host.size() <= kMaxPeers
                      ? Status()
                      : Status(Errorf("{} ranks, peer memory serves up to {}", host.size(), kMaxPeers));
  view_ = Arrange(host.rank(), host.size(), room);
  if (status.ok()) status = inbox_.AllocateZeroed(Bytes(host.size(), room));
  if (status.ok()) status = state_.AllocateZeroed(kPeerStateWords * 4);
  if (status.ok()) status = host_fault_.Allocate(4);
  if (status.ok()) {
    std::memset(host_fault_.As(), 0, 4);
    status = ToStatus(cudaDeviceSynchronize(), "preparing peer memory");
  }
  Card mine = {};
  gethostname(mine.host, sizeof mine.host - 1);
  mine.process = getpid();
  mine.usable = status.ok();
  if (status.ok()) {
    mine.address = inbox_.As();
    status = ToStatus(cudaGetDevice(&mine.device), "device");
    if (status.ok()) status = ToStatus(cudaIpcGetMemHandle(&mine.handle, inbox_.As()), "a handle of device memory");
    mine.usable = status.ok();
  }
  std::vector<Card> cards(host.size());
  MINIMO_TRY(host.AllGather<Card>(std::span(&mine, 1), cards));
  for (int r = 0; status.ok() && r < host.size(); ++r) {
    const Card& card = cards[r];
    if (!card.usable) {
      status = Errorf("rank {} has no peer memory", r);
    } else if (r == host.rank()) {
      view_.inbox[r] = card.address;
    } else if (std::strcmp(card.host, mine.host) != 0) {
      status = Errorf("ranks {} and {} are on different hosts", host.rank(), r);
    } else if (card.process == mine.process) {
      view_.one_device = view_.one_device || card.device == mine.device;
      const cudaError_t code =
          card.device == mine.device ? cudaSuccess : cudaDeviceEnablePeerAccess(card.device, 0);
      if (code == cudaErrorPeerAccessAlreadyEnabled) cudaGetLastError();
      if (code != cudaErrorPeerAccessAlreadyEnabled) status = ToStatus(code, "peer access");
      view_.inbox[r] = card.address;
    } else {
      status = ToStatus(cudaIpcOpenMemHandle(&opened_[r], card.handle, cudaIpcMemLazyEnablePeerAccess),
                        "opening another rank's memory");
      view_.inbox[r] = static_cast<uint8_t*>(opened_[r]);
    }
  }
  if (!status.ok()) cudaGetLastError();  // none of these is sticky
  float lacking[1] = {status.ok() ? 0.0f : 1.0f};
  MINIMO_TRY(host.AllReduceSum(lacking));
  MINIMO_TRY(status);
  if (lacking[0] != 0) return Errorf("{} of {} ranks cannot reach the others' memory", lacking[0], host.size());
  view_.state = state_.As<uint32_t>();
  view_.host_fault = host_fault_.As<uint32_t>();
  set_timeout_ms(kDefaultCommTimeoutMs);
  return {};
}

}  // namespace minimo::cuda
