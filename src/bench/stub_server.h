// A server for tests: answers OpenAI requests with tokens at prescribed times, or with prescribed faults.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace minimo::bench {

struct StubRequest {
  int index = 0;  // in the order of arrival
  std::string path;
  std::string id;  // x-request-id
  std::string body;
  int max_tokens = 0;
};

struct StubReply {
  int status = 200;
  std::string error_body;              // of a status other than 200
  std::vector<double> token_times_s;   // from the request's arrival; one chunk each
  int prompt_tokens = 0;
  bool usage = true;                   // a last chunk with the counts
  bool done = true;                    // data: [DONE]
  int break_after = -1;                // chunks after which the connection is closed; -1: never
  std::string raw_event;               // sent as an event after the tokens; empty: none
};

class StubServer {
 public:
  using Handler = std::function<StubReply(const StubRequest&)>;
  explicit StubServer(Handler handler);  // listens on a free port of 127.0.0.1
  ~StubServer();
  StubServer(const StubServer&) = delete;
  StubServer& operator=(const StubServer&) = delete;

  std::string url() const;
  int requests() const { return requests_; }
  int connections() const { return connections_; }
  // The most by which a token left later than its time: the machine's doing, not the client's.
  double worst_lag_s() const { return static_cast<double>(worst_lag_us_) * 1e-6; }

 private:
  void Accept();
  void Serve(int fd);
  bool Answer(int fd, const StubRequest& request, double arrival_s);

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<int> requests_{0};
  std::atomic<int> connections_{0};
  std::atomic<int64_t> worst_lag_us_{0};
  std::thread acceptor_;
  std::mutex mutex_;
  std::vector<std::thread> threads_;
  std::vector<int> sockets_;
};

}  // namespace minimo::bench
