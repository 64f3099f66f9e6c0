"""Load a policy in plain Transformers and in plain vLLM, without any code of scalerl.

    python -I load_elsewhere.py FOLDER QUESTION

The last line of its output is JSON: what vLLM answers, with log-probabilities, and those of Transformers.
"""

import json
import os
import sys

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, question = sys.argv[1:]
    messages = [{"role": "user", "content": question}]
    small = {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": 1 << 27,
        "max_model_len": 128,
    }
    (answer,) = LLM(model=folder, **small).chat(messages, SamplingParams(max_tokens=12, logprobs=0))
    sampled = list(answer.outputs[0].token_ids)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + sampled])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(sampled)[:, None])[:, 0]
    found = [entry[token].logprob for entry, token in zip(answer.outputs[0].logprobs, sampled, strict=True)]
    prompts = {"transformers": prompt, "vllm": list(answer.prompt_token_ids)}
    logprobs = {"transformers": expected.tolist(), "vllm": found}
    print(json.dumps({"prompt": prompts, "logprobs": logprobs, "scalerl": "scalerl" in sys.modules}))
