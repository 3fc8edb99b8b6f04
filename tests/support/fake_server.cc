// fake_server MODEL [--name value ...]: the server around a fake engine, for the tests in tests/python. Prints
// "listening on PORT" and serves until SIGTERM.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "base/log.h"
#include "server/server.h"
#include "tests/support/fake_engine.h"
#include "tests/support/plain_chat.h"

int main(int argc, char** argv) {
  using namespace minimo;
  std::map<std::string, std::string> flags;
  for (int i = 2; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  const auto number = [&](const char* name, int fallback) {
    return flags.count(name) > 0 ? std::atoi(flags[name].c_str()) : fallback;
  };
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  SetLogLevel(LogLevel::kInfo);
  testing::FakeEngineOptions fake;
  fake.model = argc > 1 ? argv[1] : "models/nano-minimax-m2";
  fake.step_us = number("--step-us", 1000);
  fake.default_length = number("--length", 32);
  fake.max_num_seqs = number("--max-num-seqs", 256);
  fake.script = [&](const std::string& prompt) -> std::string {
    if (prompt.find("tool: ") != std::string::npos) return "<think>The tool has answered.</think>It is sunny.";
    if (prompt.find("[1 tools]") != std::string::npos) {
      return "<think>I should call it.</think><call get_weather {\"location\": \"Paris\"}>";
    }
    if (prompt.find("haiku") != std::string::npos) return "<think>Three lines.</think>Blue waves come and go";
    return "";
  };
  auto engine = testing::FakeEngine::Create(fake);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    return 1;
  }
  server::ServerOptions options;
  options.served_model_names = {"fake"};
  if (flags.count("--api-key") > 0) options.api_keys = {flags["--api-key"]};
  if (flags.count("--allowed-origins") > 0) options.allowed_origins = {flags["--allowed-origins"]};
  options.max_num_seqs = fake.max_num_seqs;
  options.max_queue = number("--max-queue", 1024);
  options.drain_timeout_ms = number("--drain-timeout-ms", 5000);
  options.http.port = 0;
  options.http.max_connections = number("--max-connections", 4096);
  options.http.max_body_bytes = number("--max-body-bytes", 32 << 20);
  options.http.idle_timeout_ms = number("--idle-timeout-ms", 75000);
  options.http.write_timeout_ms = number("--write-timeout-ms", 30000);
  options.http.keep_alive_comment_ms = number("--keep-alive-ms", 15000);
  const testing::PlainChat chat((*engine)->tokenizer());
  server::Server server(**engine, chat, options);
  if (Status status = server.Start(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return 1;
  }
  std::printf("listening on %d\n", server.port());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  const int cut = server.Drain();
  LogInfo("drained, {} connections cut", cut);
  return 0;
}
