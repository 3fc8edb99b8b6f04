#include "server/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "base/log.h"

namespace minimo::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Client() { Close(); }
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  bool connected() const { return connected_; }
  void Send(const std::string& text) {
    ASSERT_EQ(::send(fd_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  // Reads until `text` has been seen, the end, or 5 s.
  std::string ReadUntil(const std::string& text) {
    while (got_.find(text) == std::string::npos && ReadSome()) {
    }
    return got_;
  }
  std::string ReadAll() {
    while (ReadSome()) {
    }
    return got_;
  }
  void Forget() { got_.clear(); }
  bool closed() const { return closed_; }

 private:
  bool ReadSome() {
    pollfd poll{fd_, POLLIN, 0};
    if (::poll(&poll, 1, 5000) <= 0) return false;
    char bytes[4096];
    const ssize_t count = ::recv(fd_, bytes, sizeof(bytes), 0);
    closed_ = count <= 0;
    if (count > 0) got_.append(bytes, static_cast<size_t>(count));
    return count > 0;
  }

  int fd_;
  bool connected_ = false;
  bool closed_ = false;
  std::string got_;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override { SetLogLevel(LogLevel::kError); }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }

  void Serve(HttpServerOptions options = {}, std::vector<std::string> keys = {},
             std::vector<std::string> origins = {}) {
    Router router{Auth(std::move(keys)), std::move(origins)};
    router.Add("POST", "/echo", [](HttpRequest&& request, ReplyPtr reply) {
      HttpResponse response;
      response.body = request.body;
      reply->Send(std::move(response));
    });
    router.Add("GET", "/open", [](HttpRequest&&, ReplyPtr reply) { reply->Send({}); }, true);
    router.Add("GET", "/drop", [](HttpRequest&&, ReplyPtr) {});
    router.Add("GET", "/flood", [](HttpRequest&&, ReplyPtr reply) {
      reply->BeginStream({});
      for (int i = 0; i < 1000; ++i) reply->Write(std::string(64 << 10, 'x'), 0);
      reply->End();
    });
    router.Add("GET", "/stream", [this](HttpRequest&&, ReplyPtr reply) {
      reply->BeginStream({});
      reply->OnClose([this] { closed_.set_value(); });
      stream_.set_value(reply);
    });
    options.port = 0;
    server_ = std::make_unique<HttpServer>(options, std::move(router));
    const Status status = server_->Start();
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  Client Connect() { return Client(server_->port()); }

  std::promise<ReplyPtr> stream_;
  std::promise<void> closed_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, QuietNewsWaitForTheWakeUpAndKeepTheirOrder) {
  Serve();
  Client client = Connect();
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  client.ReadUntil("\r\n\r\n");
  const ReplyPtr reply = stream_.get_future().get();
  std::atomic<int> ran{0};
  struct Writes final : IoTask {
    Writes(std::atomic<int>& counter, Reply& to, std::string what) : ran(counter), reply(to), text(std::move(what)) {}
    void Run() override {
      ++ran;
      reply.Write(text, 0);
    }
    std::atomic<int>& ran;
    Reply& reply;
    const std::string text;
  };
  for (const char* text : {"a", "b", "c"}) reply->PostQuietly(std::make_shared<Writes>(ran, *reply, text));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(ran, 0);
  server_->Wake();
  client.ReadUntil("1\r\nc\r\n");  // no header ends so; a request id may end in "c"
  EXPECT_EQ(ran, 3);
  reply->PostQuietly(std::make_shared<Writes>(ran, *reply, "d"));
  reply->Post([&] { reply->End(); });  // wakes for both
  EXPECT_THAT(client.ReadUntil("\r\n0\r\n\r\n"), HasSubstr("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n0\r\n\r\n"));
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrderOnOneConnection) {
  Serve();
  Client client = Connect();
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\noneGET /open HTTP/1.1\r\nx-request-id: mine\r\n\r\n"
              "POST /echo HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nthree");
  const std::string got = client.ReadAll();
  EXPECT_LT(got.find("one"), got.find("x-request-id: mine"));
  EXPECT_LT(got.find("x-request-id: mine"), got.find("three"));
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, RefusesWhatItCannotServeInWords) {
  Serve({.max_body_bytes = 1000});
  const auto answer = [&](const std::string& request) {
    Client client = Connect();
    client.Send(request);
    return client.ReadUntil("}}");
  };
  EXPECT_THAT(answer("GET /nothing HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(answer("PUT /echo HTTP/1.1\r\n\r\n"), HasSubstr("Allow: POST"));
  EXPECT_THAT(answer("rubbish\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(answer("POST /echo HTTP/1.1\r\nContent-Length: 2000\r\n\r\n"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(
      answer("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + std::string(2000, 'x') + "\r\n"),
      StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(answer("POST /echo HTTP/1.1\r\nX: " + std::string(20000, 'x') + "\r\n\r\n"), StartsWith("HTTP/1.1 431"));
}

TEST_F(HttpServerTest, AsksForTheBodyWhenTheClientExpectsIt) {
  Serve();
  Client client = Connect();
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 100 Continue\r\n\r\n"));
  client.Send("body");
  EXPECT_THAT(client.ReadUntil("body"), HasSubstr("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, KeysGuardWhatIsNotOpen) {
  Serve({}, {"first", "second"});
  const auto status = [&](const std::string& headers, const std::string& path = "POST /echo") {
    Client client = Connect();
    client.Send(path + " HTTP/1.1\r\nContent-Length: 0\r\n" + headers + "\r\n");
    return client.ReadUntil("\r\n\r\n").substr(9, 3);
  };
  EXPECT_EQ(status(""), "401");
  EXPECT_EQ(status("Authorization: Bearer firs\r\n"), "401");
  EXPECT_EQ(status("Authorization: Bearer firstfirst\r\n"), "401");
  EXPECT_EQ(status("Authorization: Bearer \r\n"), "401");
  EXPECT_EQ(status("Authorization: Bearer first\r\n"), "200");
  EXPECT_EQ(status("x-api-key: second\r\n"), "200");
  EXPECT_EQ(status("", "GET /open"), "200");
  EXPECT_EQ(status("", "GET /unknown"), "401");  // not even what exists is told
}

TEST_F(HttpServerTest, CorsIsOffUnlessTheOriginIsListed) {
  Serve({}, {"key"}, {"https://good.example"});
  const auto answer = [&](const std::string& origin) {
    Client client = Connect();
    client.Send("OPTIONS /echo HTTP/1.1\r\nOrigin: " + origin + "\r\n\r\n");
    return client.ReadUntil("\r\n\r\n");
  };
  EXPECT_THAT(answer("https://good.example"), HasSubstr("Access-Control-Allow-Origin: https://good.example"));
  EXPECT_THAT(answer("https://evil.example"), Not(HasSubstr("Access-Control-Allow-Origin")));
}

TEST_F(HttpServerTest, StreamsWithKeepAliveCommentsAndNoticesThatTheClientLeft) {
  Serve({.keep_alive_comment_ms = 30});
  Client client = Connect();
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  ReplyPtr reply = stream_.get_future().get();
  EXPECT_THAT(client.ReadUntil(": keep-alive\n\n"), HasSubstr("Transfer-Encoding: chunked"));
  reply->Post([reply] { reply->Write("data: 1\n\n", 0); });
  client.ReadUntil("9\r\ndata: 1\n\n\r\n");
  client.Close();
  EXPECT_EQ(closed_.get_future().wait_for(std::chrono::seconds(2)), std::future_status::ready);
}

TEST_F(HttpServerTest, StreamsToOldClientsWithoutChunks) {
  Serve();
  Client client = Connect();
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  ReplyPtr reply = stream_.get_future().get();
  reply->Post([reply] {
    reply->Write("data: 1\n\n", 0);
    reply->End();
  });
  EXPECT_THAT(client.ReadAll(), ::testing::EndsWith("\r\n\r\ndata: 1\n\n"));
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, DropsAClientThatDoesNotRead) {
  Serve({.max_pending_bytes = 1 << 20});
  Client client = Connect();
  client.Send("GET /flood HTTP/1.1\r\n\r\n");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (server_->counters().clients_dropped == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(server_->counters().clients_dropped, 1);
}

// Two tests: with both limits at once, a first connection that has idled out while the second was on its way would make
// room for it.
TEST_F(HttpServerTest, RefusesConnectionsOverTheLimit) {
  Serve({.max_connections = 1});
  Client first = Connect();
  first.Send("GET /open HTTP/1.1\r\n\r\n");
  EXPECT_THAT(first.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  Client second = Connect();
  EXPECT_THAT(second.ReadUntil("}}"), StartsWith("HTTP/1.1 503"));
}

TEST_F(HttpServerTest, ClosesIdleConnections) {
  Serve({.idle_timeout_ms = 200});
  Client client = Connect();
  client.Send("GET /open HTTP/1.1\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(client.ReadAll(), Not(HasSubstr(" 408 ")));  // with spaces: a request id may hold the digits
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, AHandlerThatForgetsItsRequestClosesTheConnection) {
  Serve();
  Client client = Connect();
  client.Send("GET /drop HTTP/1.1\r\n\r\n");
  client.ReadAll();
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, DrainsFinishesWhatRunsAndCutsTheRest) {
  Serve();
  Client idle = Connect();
  idle.Send("GET /open HTTP/1.1\r\n\r\n");
  idle.ReadUntil("\r\n\r\n");
  Client busy = Connect();
  busy.Send("GET /stream HTTP/1.1\r\n\r\n");
  ReplyPtr reply = stream_.get_future().get();
  auto drained = std::async(std::launch::async, [&] { return server_->Drain(5000); });
  idle.ReadAll();
  EXPECT_TRUE(idle.closed());
  reply->Post([reply] {
    reply->Write("data: last\n\n", 0);
    reply->End();
  });
  EXPECT_THAT(busy.ReadAll(), ::testing::EndsWith("data: last\n\n\r\n0\r\n\r\n"));
  EXPECT_EQ(drained.get(), 0);
  EXPECT_FALSE(Connect().connected());
}

TEST_F(HttpServerTest, DrainCutsAfterItsTime) {
  Serve();
  Client busy = Connect();
  busy.Send("GET /stream HTTP/1.1\r\n\r\n");
  const ReplyPtr reply = stream_.get_future().get();
  EXPECT_EQ(server_->Drain(50), 1);
  EXPECT_EQ(closed_.get_future().wait_for(std::chrono::seconds(0)), std::future_status::ready);
}

}  // namespace
}  // namespace minimo::server
