#include "comm/collectives_check.h"

#include <cstring>
#include <numeric>
#include <random>

#include "base/error.h"

namespace minimo {
namespace {

// Rank r's value i of call `salt`: not representable sums, so that a change of order changes bits.
float Value(int rank, int64_t i, uint64_t salt) {
  uint64_t h = static_cast<uint64_t>(rank) * 1000003 + static_cast<uint64_t>(i) * 7919 + salt;
  h *= 0x9E3779B97F4A7C15u;
  return static_cast<float>(static_cast<double>(h >> 11) * 0x1p-53 - 0.5) * (1 + rank % 5);
}

std::vector<float> Values(int rank, int64_t count, uint64_t salt) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = Value(rank, i, salt);
  return values;
}

float OrderedSum(int ranks, int64_t i, uint64_t salt) {
  float sum = Value(0, i, salt);
  for (int r = 1; r < ranks; ++r) sum += Value(r, i, salt);
  return sum;
}

Status ExpectBits(std::span<const float> found, std::span<const float> expected, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&found[i], &expected[i], sizeof(float)) != 0) {
      return Errorf("{}: element {} of {} is {}, expected {}", what, i, expected.size(), found[i], expected[i]);
    }
  }
  return {};
}

Status CheckSums(Communicator& comm, int64_t count, uint64_t salt, std::mt19937_64& random) {
  std::vector<float> values = Values(comm.rank(), count, salt);
  MINIMO_TRY(comm.AllReduceSum(values));
  std::vector<float> expected(count);
  for (int64_t i = 0; i < count; ++i) expected[i] = OrderedSum(comm.size(), i, salt);
  MINIMO_TRY(ExpectBits(values, expected, "all-reduce"));

  std::vector<int64_t> counts(comm.size(), 0);
  for (int64_t i = 0; i < count; ++i) ++counts[random() % comm.size()];
  std::vector<float> mine(counts[comm.rank()]);
  MINIMO_TRY(comm.ReduceScatterSum(Values(comm.rank(), count, salt), counts, mine));
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + comm.rank(), int64_t{0});
  return ExpectBits(mine, std::span(expected).subspan(begin, mine.size()), "reduce-scatter");
}

Status CheckGathers(Communicator& comm, int64_t count, uint64_t salt, std::mt19937_64& random) {
  std::vector<int64_t> counts(comm.size());
  for (int64_t& c : counts) c = static_cast<int64_t>(random() % (count + 1));
  std::vector<float> expected;
  for (int r = 0; r < comm.size(); ++r) {
    const std::vector<float> part = Values(r, counts[r], salt);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  std::vector<float> all(expected.size());
  std::vector<float> mine = Values(comm.rank(), counts[comm.rank()], salt);
  MINIMO_TRY(comm.AllGatherV<float>(mine, counts, all));
  std::fill(mine.begin(), mine.end(), -1.0f);  // the source may be reused at once
  MINIMO_TRY(ExpectBits(all, expected, "all-gather"));

  const std::vector<std::byte> text(comm.rank() * 3, static_cast<std::byte>(comm.rank()));
  MINIMO_ASSIGN(const auto texts, comm.AllGatherBytes(text));
  for (int r = 0; r < comm.size(); ++r) {
    if (texts[r] != std::vector<std::byte>(r * 3, static_cast<std::byte>(r))) {
      return Errorf("all-gather of bytes: rank {}'s part is wrong", r);
    }
  }
  return {};
}

Status CheckExchange(Communicator& comm, int64_t count, uint64_t salt) {
  const int ranks = comm.size(), me = comm.rank();
  const auto amount = [&](int from, int to) {
    return (count + from * 3 + to * 5) % 17 == 0 ? 0 : (count + from + 2 * to) % 41;
  };
  std::vector<int64_t> send_counts(ranks), receive_counts(ranks);
  std::vector<float> send, expected;
  for (int r = 0; r < ranks; ++r) {
    send_counts[r] = amount(me, r);
    receive_counts[r] = amount(r, me);
    for (int64_t i = 0; i < send_counts[r]; ++i) send.push_back(Value(me, i, salt + r));
    for (int64_t i = 0; i < receive_counts[r]; ++i) expected.push_back(Value(r, i, salt + me));
  }
  std::vector<float> receive(expected.size());
  MINIMO_TRY(comm.AllToAllV<float>(send, send_counts, receive, receive_counts));
  return ExpectBits(receive, expected, "all-to-all");
}

Status CheckBroadcast(Communicator& comm, int64_t count, uint64_t salt) {
  const int root = static_cast<int>(salt % comm.size());
  std::vector<float> data = comm.rank() == root ? Values(root, count, salt) : std::vector<float>(count);
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(data)), root));
  MINIMO_TRY(ExpectBits(data, Values(root, count, salt), "broadcast"));
  std::vector<std::byte> bytes;
  if (comm.rank() == root) bytes.assign(count % 1000, std::byte{42});
  MINIMO_TRY(comm.BroadcastBytes(&bytes, root));
  if (bytes != std::vector<std::byte>(count % 1000, std::byte{42})) return Errorf("broadcast of bytes is wrong");
  return comm.Barrier();
}

}  // namespace

Status CheckCollectives(Communicator& comm, int rounds, uint64_t seed) {
  std::mt19937_64 random(seed);  // the same on all ranks
  constexpr int64_t kSizes[] = {0, 1, 3, 7, 64, 255, 1000, 4097, 70001};
  for (int round = 0; round < rounds; ++round) {
    const int64_t count = kSizes[random() % std::size(kSizes)];
    const uint64_t salt = random();
    switch (random() % 4) {
      case 0: MINIMO_TRY(CheckSums(comm, count, salt, random)); break;
      case 1: MINIMO_TRY(CheckGathers(comm, count, salt, random)); break;
      case 2: MINIMO_TRY(CheckExchange(comm, count, salt)); break;
      default: MINIMO_TRY(CheckBroadcast(comm, count, salt)); break;
    }
  }
  return {};
}

Status CheckSplit(Communicator& comm) {
  const int columns = comm.size() % 2 == 0 ? 2 : 1;
  MINIMO_ASSIGN(const auto row, comm.Split(comm.rank() / columns, comm.rank()));
  // The key turns the order of the column around.
  MINIMO_ASSIGN(const auto column, comm.Split(comm.rank() % columns, -comm.rank()));
  const int rows = comm.size() / columns;
  if (row->size() != columns || row->rank() != comm.rank() % columns) return Errorf("split: wrong rank in the row");
  if (column->size() != rows || column->rank() != rows - 1 - comm.rank() / columns) {
    return Errorf("split: wrong rank in the column");
  }
  float in_row[1] = {1.0f + comm.rank()}, in_column[1] = {1.0f + comm.rank()};
  MINIMO_TRY(row->AllReduceSum(in_row));
  MINIMO_TRY(column->AllReduceSum(in_column));
  float row_sum = 0, column_sum = 0;
  for (int r = 0; r < comm.size(); ++r) {
    if (r / columns == comm.rank() / columns) row_sum += 1.0f + r;
    if (r % columns == comm.rank() % columns) column_sum += 1.0f + r;
  }
  if (in_row[0] != row_sum || in_column[0] != column_sum) return Errorf("split: sums cross group borders");
  return CheckCollectives(*column, 8, 5);
}

}  // namespace minimo
