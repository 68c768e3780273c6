"""Shapes of models, and checkpoints of random weights in them."""
ENCODERS = {
    "tiny": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=200),
    "roberta-base-shape": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=50265),
}
DECODERS = {
    "tiny-llama": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=200
    ),
    "smollm2-135m-shape": dict(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, vocab_size=49152
    ),
}


def random_checkpoint(shape, folder):
    """Writes the checkpoint of a RoBERTa with a head of two classes, or of a Llama, to this folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    if shape in ENCODERS:
        config = transformers.RobertaConfig(
            max_position_embeddings=514, type_vocab_size=1, num_labels=2, layer_norm_eps=1e-5, **ENCODERS[shape]
        )
        model = transformers.RobertaForSequenceClassification(config)
    else:
        config = transformers.LlamaConfig(
            max_position_embeddings=8192, rms_norm_eps=1e-5, initializer_range=1 / 24, tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=100_000.0), **DECODERS[shape]
        )
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
