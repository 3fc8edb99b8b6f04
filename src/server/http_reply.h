// What a handler holds: the connection, as long as it still answers this request. Internal to http_connection.cc.
#pragma once

#include <boost/asio/post.hpp>
#include <memory>

#include "base/log.h"
#include "server/http_connection.h"

namespace minimo::server {

class Connection::ReplyImpl final : public Reply {
 public:
  ReplyImpl(std::shared_ptr<Connection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}

  ~ReplyImpl() override {
    auto executor = connection_->stream_.get_executor();
    boost::asio::post(executor, [connection = std::move(connection_), serial = serial_] {
      if (connection->serial_ != serial || connection->ended_ || connection->closed_) return;
      LogError("{}: a handler dropped its request unanswered", connection->peer_);
      connection->ClientGone();
    });
  }

  void Send(HttpResponse response) override {
    if (!Current()) return;
    connection_->QueueHead(response, false);
    connection_->QueueEnd();
  }
  void BeginStream(HttpResponse head) override {
    if (Current()) connection_->QueueHead(head, true);
  }
  void Write(std::string_view data, int64_t sampled_us) override {
    if (Current()) connection_->QueueChunk(data, sampled_us);
  }
  void End() override {
    if (Current()) connection_->QueueEnd();
  }
  void OnClose(std::function<void()> callback) override {
    if (connection_->serial_ == serial_) connection_->SetOnClose(std::move(callback));
  }
  void Post(std::function<void()> task) override {
    PostQuietly(std::make_shared<OneTask>(std::move(task)));
    connection_->thread_.Wake();
  }
  void PostQuietly(std::shared_ptr<IoTask> task) override {
    connection_->thread_.Queue(connection_, std::move(task));
  }

 private:
  struct OneTask final : IoTask {
    explicit OneTask(std::function<void()> given) : task(std::move(given)) {}
    void Run() override { task(); }
    std::function<void()> task;
  };
  bool Current() const {
    return connection_->serial_ == serial_ && !connection_->ended_ && !connection_->closed_;
  }

  std::shared_ptr<Connection> connection_;
  const uint64_t serial_;
};

}  // namespace minimo::server
