// An HTTP/1.1 response as it comes off a socket, and the server-sent events in its body. Both take bytes in pieces of
// any size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo::bench {

class HttpResponseParser {
 public:
  // Appends the body's bytes, framing removed, to *body. Bytes after the end of the message are an error.
  Status Feed(std::string_view bytes, std::string* body);
  // The peer closed the connection: an error unless the message was complete or ends with the connection.
  Status FeedEof();

  bool headers_done() const { return state_ != State::kHeaders; }
  bool done() const { return state_ == State::kDone; }
  int status() const { return status_; }
  const std::string& reason() const { return reason_; }
  bool keep_alive() const { return keep_alive_; }
  bool ends_with_connection() const { return state_ == State::kUntilClose || until_close_; }

 private:
  enum class State { kHeaders, kLength, kChunkSize, kChunkData, kChunkEnd, kTrailers, kUntilClose, kDone };
  Status ParseHeaders(std::string_view headers);
  Status Step(std::string* body, bool* progress);

  State state_ = State::kHeaders;
  std::string buffer_;
  int status_ = 0;
  std::string reason_;
  bool keep_alive_ = true;
  bool until_close_ = false;
  uint64_t remaining_ = 0;  // bytes of the body or of the chunk
};

class SseParser {
 public:
  // The data of each event that `bytes` completes. Comments, names and ids are dropped.
  std::vector<std::string> Feed(std::string_view bytes);

 private:
  std::string line_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace minimo::bench
