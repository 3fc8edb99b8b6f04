#include "bench/http_response.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/error.h"

namespace minimo::bench {
namespace {

constexpr size_t kMaxHeaderBytes = 64 * 1024;

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

bool ParseNumber(std::string_view text, int base, uint64_t* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out, base);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Status HttpResponseParser::ParseHeaders(std::string_view headers) {
  const size_t first_end = headers.find("\r\n");
  const std::string_view first = headers.substr(0, first_end);
  uint64_t code = 0;
  if (first.size() < 12 || first.substr(0, 5) != "HTTP/" || !ParseNumber(first.substr(9, 3), 10, &code)) {
    return Errorf("expected an HTTP status line, found \"{}\"", first.substr(0, 60));
  }
  if (code >= 100 && code < 200) return {};  // interim: the answer follows
  status_ = static_cast<int>(code);
  reason_ = std::string(Trim(first.substr(12)));
  keep_alive_ = first.substr(0, 8) != "HTTP/1.0";
  bool chunked = false;
  bool has_length = false;
  for (size_t at = first_end + 2; at < headers.size();) {
    const size_t end = std::min(headers.find("\r\n", at), headers.size());
    const std::string_view line = headers.substr(at, end - at);
    at = end + 2;
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string name = Lower(line.substr(0, colon));
    const std::string value = Lower(Trim(line.substr(colon + 1)));
    if (name == "transfer-encoding") chunked = value.find("chunked") != std::string::npos;
    if (name == "connection") keep_alive_ = value.find("close") == std::string::npos;
    if (name == "content-length") {
      if (!ParseNumber(value, 10, &remaining_)) return Errorf("Content-Length \"{}\": expected a number", value);
      has_length = true;
    }
  }
  if (status_ == 204 || status_ == 304) {
    state_ = State::kDone;
  } else if (chunked) {
    state_ = State::kChunkSize;
  } else if (has_length) {
    state_ = remaining_ == 0 ? State::kDone : State::kLength;
  } else {
    state_ = State::kUntilClose;
    until_close_ = true;
    keep_alive_ = false;
  }
  return {};
}

Status HttpResponseParser::Step(std::string* body, bool* progress) {
  *progress = false;
  switch (state_) {
    case State::kHeaders: {
      const size_t end = buffer_.find("\r\n\r\n");
      if (end == std::string::npos) {
        if (buffer_.size() > kMaxHeaderBytes) return Errorf("response headers beyond {} bytes", kMaxHeaderBytes);
        return {};
      }
      const std::string headers = buffer_.substr(0, end + 2);
      buffer_.erase(0, end + 4);
      MINIMO_TRY(ParseHeaders(headers));
      break;
    }
    case State::kLength:
    case State::kChunkData: {
      if (buffer_.empty()) return {};
      const size_t take = static_cast<size_t>(std::min<uint64_t>(remaining_, buffer_.size()));
      body->append(buffer_, 0, take);
      buffer_.erase(0, take);
      remaining_ -= take;
      if (remaining_ == 0) state_ = state_ == State::kLength ? State::kDone : State::kChunkEnd;
      break;
    }
    case State::kChunkSize:
    case State::kChunkEnd:
    case State::kTrailers: {
      const size_t end = buffer_.find("\r\n");
      if (end == std::string::npos) {
        if (buffer_.size() > kMaxHeaderBytes) return Errorf("a chunk's size line beyond {} bytes", kMaxHeaderBytes);
        return {};
      }
      const std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 2);
      if (state_ == State::kChunkSize) {
        if (!ParseNumber(Trim(line.substr(0, line.find(';'))), 16, &remaining_)) {
          return Errorf("chunk size \"{}\": expected hexadecimal digits", line.substr(0, 60));
        }
        state_ = remaining_ == 0 ? State::kTrailers : State::kChunkData;
      } else if (state_ == State::kChunkEnd) {
        if (!line.empty()) return Errorf("a chunk runs beyond its size");
        state_ = State::kChunkSize;
      } else if (line.empty()) {
        state_ = State::kDone;
      }
      break;
    }
    case State::kUntilClose:
      if (buffer_.empty()) return {};
      body->append(buffer_);
      buffer_.clear();
      break;
    case State::kDone:
      if (!buffer_.empty()) return Errorf("{} bytes after the end of the response", buffer_.size());
      return {};
  }
  *progress = true;
  return {};
}

Status HttpResponseParser::Feed(std::string_view bytes, std::string* body) {
  buffer_.append(bytes);
  for (bool progress = true; progress;) MINIMO_TRY(Step(body, &progress));
  return {};
}

Status HttpResponseParser::FeedEof() {
  if (state_ == State::kDone) return {};
  if (state_ == State::kUntilClose) {
    state_ = State::kDone;
    return {};
  }
  if (state_ == State::kHeaders) return Errorf("the server closed the connection before it answered");
  return Errorf("the server closed the connection in the middle of its answer");
}

std::vector<std::string> SseParser::Feed(std::string_view bytes) {
  std::vector<std::string> events;
  while (!bytes.empty()) {
    const size_t newline = bytes.find('\n');
    line_.append(bytes.substr(0, newline));
    if (newline == std::string_view::npos) break;
    bytes.remove_prefix(newline + 1);
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    if (line_.empty()) {
      if (has_data_) events.push_back(std::move(data_));
      data_.clear();
      has_data_ = false;
    } else if (line_.compare(0, 5, "data:") == 0) {
      if (has_data_) data_ += '\n';
      data_.append(line_, line_.size() > 5 && line_[5] == ' ' ? 6 : 5);
      has_data_ = true;
    }
    line_.clear();
  }
  return events;
}

}  // namespace minimo::bench
