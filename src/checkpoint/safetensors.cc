#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors bytes are used in place");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit
constexpr int kMaxRank = 8;

struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string name;
};

// shape -> element count, or nothing if it overflows 63 bits.
bool CountElements(const Shape& shape, int64_t element_bytes, uint64_t* bytes) {
  uint64_t count = static_cast<uint64_t>(element_bytes);
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count) || count > (uint64_t{1} << 62)) return false;
  }
  *bytes = count;
  return true;
}

// The entry's dtype, shape and offsets, checked against each other but not yet against the file.
Status ParseEntry(const std::string& where, const nlohmann::json& entry, TensorView* view, Extent* extent) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    return Errorf("{}: expected an object with dtype, shape and data_offsets", where);
  }
  const auto& dtype_name = entry["dtype"];
  if (!dtype_name.is_string()) return Errorf("{}: dtype is not a string", where);
  const auto dtype = DTypeFromName(dtype_name.get_ref<const std::string&>());
  if (!dtype) {
    return Errorf("{}: dtype {} is not one that minimo reads (F32, F16, BF16, F8_E4M3)", where,
                  dtype_name.get_ref<const std::string&>());
  }
  view->dtype = *dtype;
  const auto& shape = entry["shape"];
  if (!shape.is_array() || shape.size() > kMaxRank) return Errorf("{}: shape is not a list of up to 8 sizes", where);
  for (const auto& dim : shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > (uint64_t{1} << 62)) {
      return Errorf("{}: shape has {} where a size is expected", where, dim.dump());
    }
    view->shape.push_back(dim.get<int64_t>());
  }
  const auto& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return Errorf("{}: data_offsets is not a pair of byte positions", where);
  }
  extent->begin = offsets[0].get<uint64_t>();
  extent->end = offsets[1].get<uint64_t>();
  if (extent->end < extent->begin) {
    return Errorf("{}: data_offsets [{}, {}] end before they begin", where, extent->begin, extent->end);
  }
  uint64_t bytes = 0;
  if (!CountElements(view->shape, SizeOf(*dtype), &bytes)) {
    return Errorf("{}: shape {} overflows", where, ToString(view->shape));
  }
  if (bytes != extent->end - extent->begin) {
    return Errorf("{}: {} {} takes {} bytes, but data_offsets span {}", where, NameOf(*dtype), ToString(view->shape),
                  bytes, extent->end - extent->begin);
  }
  return {};
}

// The tensors must tile the data section: no overlap, no gap, no more and no less than the file holds.
Status CheckTiling(const std::string& path, std::vector<Extent> extents, uint64_t data_bytes) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    const Extent& e = extents[i];
    if (e.end > data_bytes) {
      return Errorf("{}: truncated: tensor {} ends at byte {} of the data, the file holds {}; fetch the file again",
                    path, e.name, e.end, data_bytes);
    }
    if (e.begin < at) {
      return Errorf("{}: tensors {} and {} overlap at byte {} of the data", path, extents[i - 1].name, e.name, e.begin);
    }
    if (e.begin > at) return Errorf("{}: {} bytes before tensor {} belong to no tensor", path, e.begin - at, e.name);
    at = e.end;
  }
  if (at != data_bytes) return Errorf("{}: {} bytes after the last tensor belong to no tensor", path, data_bytes - at);
  return {};
}

Result<nlohmann::json> ParseHeader(const std::string& path, const MappedFile& file, uint64_t* header_bytes) {
  if (file.size() >= 4 && std::memcmp(file.data(), "GGUF", 4) == 0) {
    return Errorf("{}: a GGUF file; minimo reads safetensors checkpoints in the Hugging Face layout", path);
  }
  if (file.size() < 8) return Errorf("{}: {} bytes, too short for a safetensors file", path, file.size());
  std::memcpy(header_bytes, file.data(), 8);
  if (*header_bytes > kMaxHeaderBytes) {
    return Errorf("{}: header length {} is beyond {}: not a safetensors file", path, *header_bytes, kMaxHeaderBytes);
  }
  if (*header_bytes > file.size() - 8) {
    return Errorf("{}: truncated: the header takes {} bytes, the file holds {}", path, *header_bytes, file.size() - 8);
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  std::set<std::string> names;
  std::string duplicate;
  const auto watch_names = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::key && depth == 1) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) duplicate = name;
    }
    return depth <= 8;
  };
  nlohmann::json header;
  try {
    header = nlohmann::json::parse(text, text + *header_bytes, watch_names);
  } catch (const nlohmann::json::exception& fault) {
    return Errorf("{}: the header is not valid JSON ({})", path, fault.what());
  }
  if (!header.is_object()) return Errorf("{}: the header is not a JSON object", path);
  if (!duplicate.empty()) return Errorf("{}: tensor {} is listed twice", path, duplicate);
  return header;
}

}  // namespace

const std::string& SafetensorsFile::path() const { return file_->path(); }

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile result;
  MINIMO_ASSIGN(result.file_, MappedFile::Open(path));
  uint64_t header_bytes = 0;
  MINIMO_ASSIGN(const nlohmann::json header, ParseHeader(path, *result.file_, &header_bytes));

  const std::byte* data = result.file_->data() + 8 + header_bytes;
  const uint64_t data_bytes = result.file_->size() - 8 - header_bytes;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return Errorf("{}: __metadata__ is not an object", path);
      for (const auto& [key, value] : entry.items()) {
        if (value.is_string()) result.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    TensorView view;
    Extent extent;
    MINIMO_TRY(ParseEntry(fmt::format("{}: tensor {}", path, name), entry, &view, &extent));
    extent.name = name;
    view.data = data + extent.begin;  // dereferenced only after CheckTiling
    extents.push_back(std::move(extent));
    result.tensors_.emplace(name, std::move(view));
  }
  MINIMO_TRY(CheckTiling(path, std::move(extents), data_bytes));

  for (auto& [name, view] : result.tensors_) {
    if (reinterpret_cast<uintptr_t>(view.data) % SizeOf(view.dtype) == 0) continue;
    auto copy = std::make_shared<Buffer<std::byte>>(view.bytes());
    std::memcpy(copy->data(), view.data, view.bytes());
    view.data = copy->data();
    result.aligned_.push_back(std::move(copy));
  }
  return result;
}

}  // namespace minimo
