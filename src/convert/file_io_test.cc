// Files read ahead and written in blocks: whatever the sizes and the order of threads, the bytes are the bytes; and
// what goes wrong is said.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "convert/block_writer.h"
#include "convert/ledger.h"
#include "convert/read_ahead.h"
#include "convert/source_reader.h"
#include "tests/support/scratch_dir.h"

namespace minimo {
namespace {

using ::testing::HasSubstr;
using testing::ReadBytes;
using testing::Safetensors;
using testing::ScratchDir;

std::string Noise(size_t bytes, uint32_t seed = 1) {
  std::mt19937 rng(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(rng());
  return text;
}

const std::byte* Bytes(const std::string& text) { return reinterpret_cast<const std::byte*>(text.data()); }

TEST(BlockFile, WritesWhatWasAppendedWhateverTheSizes) {
  const ScratchDir dir;
  constexpr size_t kBlock = 8192;
  for (const size_t size : {size_t{0}, size_t{1}, kBlock - 1, kBlock, kBlock + 1, 5 * kBlock, 7 * kBlock + 4097}) {
    SCOPED_TRACE(size);
    const std::string text = Noise(size);
    WriteQueue queue(kBlock);
    auto file = BlockFile::Create(dir.File("f"), queue);
    ASSERT_TRUE(file.ok()) << file.error().message;
    std::mt19937 rng(2);
    for (size_t at = 0; at < size;) {
      if (rng() % 2) {  // appended, or filled in where the file has room
        const size_t part = std::min<size_t>(size - at, rng() % 20000);
        ASSERT_TRUE(file->Append(Bytes(text) + at, part));
        at += part;
      } else {
        const std::span<std::byte> space = file->Space();
        ASSERT_GE(space.size(), 1u);
        const size_t part = std::min({size - at, space.size(), size_t{rng() % 9000}});
        std::memcpy(space.data(), text.data() + at, part);
        ASSERT_TRUE(file->Commit(part));
        at += part;
      }
    }
    ASSERT_TRUE(file->Flush());
    ASSERT_TRUE(queue.Close().ok());
    EXPECT_FALSE(std::filesystem::exists(dir.File("f")));  // not yet whole
    ASSERT_TRUE(file->Finish().ok());
    EXPECT_EQ(ReadBytes(dir.File("f")), text);
    EXPECT_EQ(file->bytes(), static_cast<int64_t>(size));
    EXPECT_EQ(file->checksum(), FileChecksum(dir.File("f"), {}).value());
    EXPECT_FALSE(std::filesystem::exists(dir.File("f.tmp")));
    std::filesystem::remove(dir.File("f"));
  }
}

TEST(BlockFile, AnUnfinishedOneIsRemoved) {
  const ScratchDir dir;
  {
    WriteQueue queue(4096);
    auto file = BlockFile::Create(dir.File("f"), queue);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(Bytes(Noise(10000)), 10000));
    ASSERT_TRUE(queue.Close().ok());
    EXPECT_TRUE(std::filesystem::exists(dir.File("f.tmp")));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(BlockFile, AFullDiskIsToldOnceAndEndsTheQueue) {
  const ScratchDir dir;
  if (mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "cannot mount a small disk here";
  std::string message;
  {
    WriteQueue queue(8192);
    auto file = BlockFile::Create(dir.File("f"), queue);
    ASSERT_TRUE(file.ok());
    const std::string text = Noise(8192);
    int pushed = 0;
    while (pushed < 1000 && file->Append(Bytes(text), text.size())) ++pushed;  // waits for the writer, ends by it
    EXPECT_LT(pushed, 20);
    message = queue.Close().error().message;
  }
  const bool left = !std::filesystem::is_empty(dir.path());
  umount(dir.path().c_str());
  EXPECT_THAT(message, HasSubstr("f: cannot write: No space left"));
  EXPECT_FALSE(left);
}

TEST(BlockFile, AFolderThatCannotBeWrittenIsToldAtOnce) {
  WriteQueue queue(4096);
  const auto file = BlockFile::Create("/proc/nowhere/f", queue);
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.error().message, HasSubstr("/proc/nowhere/f.tmp: cannot create"));
}

// Stops threads wherever they are until it ends.
class Hold {
 public:
  explicit Hold(const std::vector<pid_t>& threads) {
    EXPECT_EQ(pipe(gate_), 0);
    held_ = 0;
    signal(SIGUSR1, [](int) {
      ++held_;
      char byte;
      (void)!read(gate_[0], &byte, 1);  // until the other end is closed
    });
    for (const pid_t thread : threads) EXPECT_EQ(tgkill(getpid(), thread, SIGUSR1), 0);
    while (held_ < std::ssize(threads)) std::this_thread::yield();
  }
  ~Hold() { close(gate_[1]); }

 private:
  static inline int gate_[2];
  static inline std::atomic<int> held_;
};

std::vector<pid_t> Threads() {
  std::vector<pid_t> threads;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    threads.push_back(std::stoi(entry.path().filename().string()));
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

TEST(WriteQueue, TakesSoManyBlocksAheadOfTheDisk) {
  const ScratchDir dir;
  constexpr size_t kBlock = 4096;
  const std::string text = Noise(10 * kBlock);
  const std::vector<pid_t> before = Threads();
  WriteQueue queue(kBlock);
  const std::vector<pid_t> after = Threads();
  std::vector<pid_t> writers;
  std::set_difference(after.begin(), after.end(), before.begin(), before.end(), std::back_inserter(writers));
  ASSERT_EQ(std::ssize(writers), WriteQueue::kWriters);
  auto file = BlockFile::Create(dir.File("f"), queue);
  ASSERT_TRUE(file.ok());
  std::atomic<size_t> pushed{0};
  std::jthread producer;
  {
    const Hold disk(writers);
    producer = std::jthread([&] {
      for (size_t at = 0; at < text.size(); at += kBlock, ++pushed) {
        if (!file->Append(Bytes(text) + at, kBlock)) return;
      }
    });
    while (pushed < WriteQueue::kDepth) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(pushed, WriteQueue::kDepth);
  }
  producer.join();
  EXPECT_EQ(pushed, 10u);
  ASSERT_TRUE(queue.Close().ok());
  ASSERT_TRUE(file->Finish().ok());
  EXPECT_TRUE(ReadBytes(dir.File("f")) == text);
}

// A checkpoint of two tensors of bytes and its files.
struct Source {
  ScratchDir dir;
  std::string text = Noise(23'000'000);
  Checkpoint checkpoint;
  const std::byte* a = nullptr;  // 20 MB
  const std::byte* b = nullptr;  // 3 MB

  Source() {
    dir.Write("model.safetensors",
              Safetensors(R"({"a":{"dtype":"U8","shape":[20000000],"data_offsets":[0,20000000]},)"
                          R"("b":{"dtype":"U8","shape":[3000000],"data_offsets":[20000000,23000000]}})", text));
    checkpoint = Checkpoint::Open(dir.path().string()).value();
    a = checkpoint.Find("a")->data;
    b = checkpoint.Find("b")->data;
  }
};

TEST(SourceReader, ReadsWhatWasAskedForAndWhatWasNot) {
  const Source source;
  const auto reader = SourceReader::Open(source.checkpoint);
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  std::string got(source.text.size(), '\0');
  auto* out = reinterpret_cast<std::byte*>(got.data());
  reader->Prefetch(source.a, 20'000'000);
  reader->Prefetch(source.b, 1000);  // little: by way of the page cache
  for (int64_t at = 0; at < 20'000'000; at += 7'000'003) {  // across the blocks of read-ahead
    ASSERT_TRUE(reader->Read(source.a + at, std::min<int64_t>(7'000'003, 20'000'000 - at), out + at).ok());
  }
  ASSERT_TRUE(reader->Read(source.b, 3'000'000, out + 20'000'000).ok());  // never asked for
  EXPECT_TRUE(got == source.text);
  ASSERT_TRUE(reader->Read(source.a, 4096, out).ok());  // taken already
  EXPECT_TRUE(got == source.text);
  const std::string memory = "of no file";
  ASSERT_TRUE(reader->Read(Bytes(memory), 10, out).ok());
  EXPECT_EQ(got.substr(0, 10), memory);
}

TEST(SourceReader, SeveralThreadsTakeTheirParts) {
  const Source source;
  const auto reader = SourceReader::Open(source.checkpoint);
  ASSERT_TRUE(reader.ok());
  std::string got(source.text.size(), '\0');
  auto* out = reinterpret_cast<std::byte*>(got.data());
  reader->Prefetch(source.a, 20'000'000);
  reader->Prefetch(source.b, 3'000'000);
  std::atomic<int64_t> next{0};
  constexpr int64_t kPart = 50'000;
  const auto take = [&] {
    for (int64_t at = next.fetch_add(kPart); at < 23'000'000; at = next.fetch_add(kPart)) {
      const Status status = reader->Read(source.a + at, kPart, out + at);
      EXPECT_TRUE(status.ok()) << status.error().message;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(take);
  }
  EXPECT_TRUE(got == source.text);
}

TEST(SourceReader, AFileThatHasBecomeShorterIsTold) {
  const Source source;
  const auto reader = SourceReader::Open(source.checkpoint);
  ASSERT_EQ(truncate(source.dir.File("model.safetensors").c_str(), 10'000'000), 0);
  reader->Prefetch(source.a, 20'000'000);
  std::vector<std::byte> out(20'000'000);
  const Status status = reader->Read(source.a, 20'000'000, out.data());
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("model.safetensors: cannot read: it has become shorter"));
}

// By any thread of this process, by way of read(2) and its kin.
int64_t BytesRead() {
  static int64_t own = 0;  // of the counter's file: the looks of half a second come to a block
  char text[512];
  const int fd = open("/proc/self/io", O_RDONLY);
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  if (size <= 0) return -1;
  text[size] = 0;
  int64_t bytes = 0;
  if (std::sscanf(text, "rchar: %" SCNd64, &bytes) != 1) return -1;
  own += size;
  return bytes - (own - size);  // this look is counted from the next one on
}

// More than the read-ahead may hold: it waits for what is taken, and what nobody takes does not keep it from ending.
TEST(ReadAhead, HoldsSoManyBlocksAtMost) {
  const ScratchDir dir;
  constexpr int64_t kBlock = ReadAhead::kBlockBytes, kBytes = (ReadAhead::kBlocks + 8) * kBlock;
  dir.Write("f", "");
  ASSERT_EQ(truncate(dir.File("f").c_str(), kBytes), 0);  // holes: zeros
  const std::string path = dir.File("f");
  const int fd = open(path.c_str(), O_RDONLY);
  const int64_t before = BytesRead();
  {
    ReadAhead ahead;
    ahead.Ask(4096, kBytes, fd, 0, path);
    // The counter is that of finished reads.
    const auto blocks_read = [&] { return (BytesRead() - before) / kBlock; };
    const auto expect_blocks = [&](int64_t blocks) {
      if (before < 0) return;
      while (blocks_read() < blocks) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(blocks_read(), blocks);
    };
    expect_blocks(ReadAhead::kBlocks);
    const auto drop = [](std::span<const std::byte>) {};
    for (int64_t at = 0; at < kBytes - 4 * kBlock; at += kBlock) {
      EXPECT_EQ(ahead.Take(static_cast<uintptr_t>(4096 + at), kBlock, drop).value(), kBlock);
      if (at == kBlock) expect_blocks(ReadAhead::kBlocks + 2);
    }
    EXPECT_EQ(ahead.Take(0, 1, drop).value(), 0);
    EXPECT_EQ(ahead.Take(4096 + kBytes, 1, drop).value(), 0);
  }
  close(fd);
}

}  // namespace
}  // namespace minimo
