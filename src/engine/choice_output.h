// From a sampled token to the news of a choice: text, stop conditions, the reason it ends. Engine thread.
#pragma once

#include "engine/live_request.h"
#include "minimo/request.h"

namespace minimo {

// Takes one sampled token: appends it to the choice's tokens and sampler, and fills the event's tokens, text and, if
// the choice ends with it, finish and stop_reason (or error).
void TakeToken(LiveChoice* choice, OutputToken token, Event* event);

// The choice ends for another reason than a token: what text was held back comes out.
void EndChoice(LiveChoice* choice, FinishReason reason, Event* event);

}  // namespace minimo
