"""A verdict for every known field of a `config.json`, so that none is dropped without a decision.

`honoured` fields decide kernels and are read elsewhere in `configs/`. `irrelevant` ones change no kernel, for the
reason given. `refused` ones would change kernels in a way that the catalog does not know, unless they hold a value
with which they change nothing. A field that is in none of the three and sounds like kernels is a note to the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray_warmup.configs.checkpoint_fields import CheckpointFields
from ray_warmup.configs.errors import shown

Verdict = Literal["honoured", "irrelevant", "refused"]


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The treatment of one config.json field."""

    verdict: Verdict
    why: str
    """Place that honours the field, reason for ignoring it, or effect of a refused one."""
    harmless: tuple[Any, ...] = ()
    """Of a refused field: the values with which it changes nothing, besides null."""


def _rules(verdict: Verdict, why: str, names: str, *harmless: Any) -> dict[str, FieldRule]:
    return dict.fromkeys(names.split(), FieldRule(verdict, why, harmless))


FIELDS: Mapping[str, FieldRule] = {
    **_rules("honoured", "decides which architecture it is", "architectures model_type text_config use_mla"),
    **_rules(
        "honoured",
        "a dimension of the op calls",
        "hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim vocab_size rms_norm_eps num_experts n_routed_experts num_local_experts "
        "num_experts_per_tok n_shared_experts num_shared_experts q_lora_rank kv_lora_rank qk_nope_head_dim "
        "qk_rope_head_dim v_head_dim",
    ),
    **_rules(
        "honoured",
        "which layers have experts",
        "first_k_dense_replace first_dense_layers moe_layer_freq decoder_sparse_step mlp_only_layers",
    ),
    **_rules(
        "honoured",
        "which layers have a sliding window",
        "sliding_window use_sliding_window max_window_layers layer_types",
    ),
    **_rules("honoured", "the rotary embedding", "rope_theta rope_parameters rope_scaling"),
    **_rules("honoured", "compared with model.dtype", "torch_dtype dtype"),
    **_rules("honoured", "compared with model.quantization", "quantization_config compression_config"),
    **_rules("refused", "another activation between the GEMMs", "hidden_act hidden_activation", "silu", "swish"),
    **_rules(
        "refused",
        "attention over chunks, or over chosen tokens: other attention modules",
        "attention_chunk_size index_topk index_n_heads index_head_dim dual_chunk_attention_config "
        "sparse_attention_config attn_sparse_config",
        0,
        False,
    ),
    **_rules(
        "refused",
        "attention modules with a cap on their logits",
        "attn_logit_softcapping attention_logit_softcapping logits_soft_cap attn_logit_cap",
        0,
        0.0,
        False,
    ),
    **_rules(
        "refused",
        "a cap on the logits before sampling",
        "final_logit_softcapping final_logits_soft_cap",
        0,
        0.0,
        False,
    ),
    **_rules(
        "refused",
        "heads of which only a part turns",
        "partial_rotary_factor rotary_pct rope_pct rotary_dim mrope_section",
        1,
    ),
    **_rules("refused", "another position embedding", "alibi use_alibi position_embedding_type", False, "rope"),
    **_rules(
        "refused", "attention without a causal mask", "use_bidirectional_attention bidirectional is_causal", False
    ),
    **_rules("refused", "attention with sinks", "attention_sink use_attention_sink add_attention_sink", False),
    **_rules("refused", "layers of another kind", "full_attention_interval linear_attn_config hybrid_override_pattern"),
    **_rules("refused", "another width of keys or values", "global_head_dim swa_head_dim swa_num_key_value_heads"),
    **_rules(
        "irrelevant",
        "a bias is added after its GEMM, whose op and shape stay",
        "attention_bias attention_out_bias qkv_bias mlp_bias use_bias o_bias",
    ),
    **_rules(
        "irrelevant",
        "the norm module is one for every width and place",
        "use_qk_norm qk_layernorm qk_norm",
    ),
    **_rules("irrelevant", "the GEMM of the LM head has the same shape", "tie_word_embeddings"),
    **_rules(
        "irrelevant",
        "these layers run in speculative decoding only, which is not warmed",
        "num_nextn_predict_layers num_mtp_layers mtp_num_layers",
    ),
    **_rules(
        "irrelevant",
        "routing chooses experts before the tuned GEMMs, whose shapes stay",
        "norm_topk_prob scoring_func topk_method n_group topk_group routed_scaling_factor router_jitter_noise "
        "moe_router_enable_expert_bias topk_prob",
    ),
    **_rules(
        "irrelevant",
        "a consequence of fields that are read",
        "qk_head_dim max_head_dim num_key_value_groups is_moe_model head_dim_k head_dim_v rope_interleave "
        "n_layer rope_type",
    ),
    **_rules(
        "irrelevant",
        "how long a step is, autotune and engine of the run's config say",
        "max_position_embeddings max_sequence_length max_seq_len seq_length original_max_position_embeddings",
    ),
    **_rules(
        "irrelevant",
        "for training",
        "attention_dropout hidden_dropout dropout resid_pdrop attn_pdrop embd_pdrop initializer_range "
        "router_aux_loss_coef aux_loss_alpha seq_aux output_router_logits router_z_loss_coef pretraining_tp ep_size "
        "moe_layer_freq_loss gradient_checkpointing",
    ),
    **_rules(
        "irrelevant",
        "for libraries that load or generate",
        "_name_or_path name_or_path transformers_version auto_map tokenizer_class bos_token_id eos_token_id "
        "pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id use_cache return_dict "
        "output_attentions output_hidden_states torchscript is_decoder is_encoder_decoder add_cross_attention "
        "cross_attention_hidden_size chunk_size_feed_forward problem_type id2label label2id task_specific_params "
        "pruned_heads attn_implementation _attn_implementation _attn_implementation_autoset use_bfloat16 "
        "base_model_tp_plan base_model_pp_plan tie_encoder_decoder tf_legacy_loss prefix num_return_sequences "
        "do_sample temperature top_k top_p repetition_penalty length_penalty max_length min_length language "
        "unsloth_fixed unsloth_version",
    ),
}
"""Field -> what becomes of it."""

KERNEL_WORDS = re.compile(
    r"attn|attention|rope|rotary|window|expert|moe|router|quant|head|dtype|cap(ping)?$|sparse|chunk|linear|mamba|conv|"
    r"ssm|cache|mla|lora|layer|hidden|intermediate|act(ivation)?$|norm|mlp|ffn|multiplier|scal(e|ing)|sink|gate"
)
NOTHING: tuple[Any, ...] = (None, False, 0, 0.0, "", [], {})


def check_fields(fields: CheckpointFields) -> tuple[str, ...]:
    """Return notes on unknown fields that look relevant to kernels.

    Raises ConfigError for a field that changes kernels in a way that the catalog does not know.
    """
    notes = []
    for field, value in fields.values.items():
        rule = FIELDS.get(field)
        if rule is None:
            if KERNEL_WORDS.search(field.lower()) and value not in NOTHING:
                notes.append(
                    f"model {fields.model}: {field} is {shown(value)}, a field that ray-warmup does not know; if it "
                    "changes which kernels run, what is warmed is not what the engine asks for"
                )
        elif rule.verdict == "refused" and value is not None and not _is_harmless(value, rule):
            raise fields.refusal(field, f"{rule.why} are not known to the catalog")
    return tuple(notes)


def _is_harmless(value: Any, rule: FieldRule) -> bool:
    # False equals 0 in Python, but a file that says one does not say the other.
    is_flag = isinstance(value, bool)
    return any(value == harmless and isinstance(harmless, bool) == is_flag for harmless in rule.harmless)
