// The endpoints that need thought before they answer. Each reads its request on a thread of the pool and returns what
// remains to be done on the connection's thread: sending an answer, or starting a generation.
#pragma once

#include <functional>

#include "server/http_types.h"

namespace minimo::server {

struct ApiContext;

using Answer = std::function<void(const ReplyPtr& reply)>;
using Endpoint = Answer (*)(const ApiContext& context, HttpRequest&& request);

Answer PrepareModels(const ApiContext& context, HttpRequest&& request);         // GET /v1/models[/NAME]
Answer PrepareTokenize(const ApiContext& context, HttpRequest&& request);       // POST /tokenize
Answer PrepareDetokenize(const ApiContext& context, HttpRequest&& request);     // POST /detokenize
Answer PrepareCompletions(const ApiContext& context, HttpRequest&& request);    // POST /v1/completions
Answer PrepareChat(const ApiContext& context, HttpRequest&& request);           // POST /v1/chat/completions
Answer PrepareMessages(const ApiContext& context, HttpRequest&& request);       // POST /v1/messages
Answer PrepareCountTokens(const ApiContext& context, HttpRequest&& request);    // POST /v1/messages/count_tokens

}  // namespace minimo::server
