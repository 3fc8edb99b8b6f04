#include "text/call_writer.h"

#include <fmt/format.h>

#include <mutex>
#include <random>

#include "text/utf8.h"

namespace minimo {
namespace {

// "call_" and 24 hex digits from a generator seeded by the system once.
std::string NewCallId() {
  static std::mutex mutex;
  static std::mt19937_64 random{[] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }()};
  const std::lock_guard lock(mutex);
  return fmt::format("call_{:016x}{:08x}", random(), static_cast<uint32_t>(random()));
}

}  // namespace

void AppendDelta(std::vector<ParsedDelta>& out, ParsedDelta delta) {
  const bool is_text = delta.kind != ParsedDelta::Kind::kToolCall;
  if (is_text && delta.text.empty()) return;
  if (is_text && !out.empty() && out.back().kind == delta.kind && out.back().index == delta.index) {
    out.back().text += delta.text;
  } else {
    out.push_back(std::move(delta));
  }
}

void CallWriter::BeginCall(std::string_view name, Deltas& out) {
  function_ = name;
  any_parameter_ = false;
  muted_ = !parallel_ && calls_ > 0;
  if (muted_) return;
  ParsedDelta header;
  header.kind = ParsedDelta::Kind::kToolCall;
  header.index = calls_++;
  header.id = NewCallId();
  header.name = function_;
  AppendDelta(out, std::move(header));
}

void CallWriter::Emit(std::string fragment, Deltas& out) {
  if (muted_) return;
  ParsedDelta delta;
  delta.kind = ParsedDelta::Kind::kArguments;
  delta.index = calls_ - 1;
  delta.text = std::move(fragment);
  AppendDelta(out, std::move(delta));
}

void CallWriter::BeginParameter(std::string_view name, Deltas& out) {
  std::string key = any_parameter_ ? ", \"" : "{\"";
  AppendJsonEscaped(name, &key);
  Emit(key + "\": ", out);
  any_parameter_ = true;
  value_types_ = types_.Find(function_, name);
  at_start_ = true;
  string_open_ = false;
  pending_.clear();
}

size_t CallWriter::HeldBack() const {
  if (strip_newlines_ && pending_.ends_with('\n')) return 1;
  // A character's bytes may come one by one.
  const size_t tail = std::min<size_t>(3, pending_.size());
  for (size_t size = tail; size > 0; --size) {
    const std::string_view last = std::string_view(pending_).substr(pending_.size() - size);
    if (NextUtf8(last).kind == Utf8Step::kPartial) return size;
  }
  return 0;
}

void CallWriter::AddText(std::string_view text, Deltas& out) {
  if (text.empty()) return;
  if (at_start_ && strip_newlines_ && text[0] == '\n') text.remove_prefix(1);
  at_start_ = false;
  pending_ += text;
  if (!value_types_.OnlyText()) return;
  std::string fragment;
  if (!string_open_) {
    const std::string_view value(pending_.data(), pending_.size() - (strip_newlines_ && pending_.ends_with('\n')));
    if (value_types_.AllowsNull() && std::string_view("null").starts_with(value)) return;
    string_open_ = true;
    fragment = "\"";
  }
  const size_t ready = pending_.size() - HeldBack();
  AppendJsonEscaped(std::string_view(pending_).substr(0, ready), &fragment);
  pending_.erase(0, ready);
  Emit(std::move(fragment), out);
}

void CallWriter::EndParameter(Deltas& out) {
  if (strip_newlines_ && pending_.ends_with('\n')) pending_.pop_back();
  if (string_open_) {
    std::string fragment;
    AppendJsonEscaped(pending_, &fragment);
    Emit(fragment + '"', out);
  } else {
    Emit(ToJsonArgument(pending_, value_types_), out);
  }
  pending_.clear();
}

void CallWriter::EndCall(Deltas& out) { Emit(any_parameter_ ? "}" : "{}", out); }

}  // namespace minimo
