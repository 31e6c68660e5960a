/* Written by make_rope.py with Hugging Face transformers: do not edit. */
static const struct rope_golden {
    const char *name, *config;
    int n;
    float factor, inv_freq[64];
} rope_golden[] = {
    {"default",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.36d21a0000000p-9f,  0x1.d22a500000000p-10f, 0x1.5d931c0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.8929180000000p-11f, 0x1.26d42c0000000p-11f, 0x1.ba2e4a0000000p-12f,
      0x1.4b96c00000000p-12f, 0x1.f1502a0000000p-13f, 0x1.74eea60000000p-13f, 0x1.17a8e40000000p-13f}},
    {"theta",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 500000.0}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.53c38c0000000p-1f,  0x1.c2ef780000000p-2f,  0x1.2b3dc60000000p-2f,
      0x1.8d27600000000p-3f,  0x1.078d400000000p-3f,  0x1.5dc95a0000000p-4f,  0x1.d03cce0000000p-5f,
      0x1.3411900000000p-5f,  0x1.98de920000000p-6f,  0x1.0f53860000000p-6f,  0x1.681ada0000000p-7f,
      0x1.ddee9e0000000p-8f,  0x1.3d28040000000p-8f,  0x1.a4ee400000000p-9f,  0x1.1754820000000p-9f,
      0x1.72ba420000000p-10f, 0x1.ec07d40000000p-11f, 0x1.46831a0000000p-11f, 0x1.b159020000000p-12f,
      0x1.1f91f00000000p-12f, 0x1.7da9e80000000p-13f, 0x1.fa8b860000000p-14f, 0x1.5024d60000000p-14f,
      0x1.be21880000000p-15f, 0x1.280d960000000p-15f, 0x1.88ec200000000p-16f, 0x1.04be680000000p-16f,
      0x1.5a0f4e0000000p-17f, 0x1.cb4a9a0000000p-18f, 0x1.30c94e0000000p-18f, 0x1.9483600000000p-19f}},
    {"new form",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": "
     "1000000.0}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.4c7bc00000000p-1f,  0x1.afd1360000000p-2f,  0x1.186a080000000p-2f,
      0x1.6c310e0000000p-3f,  0x1.d8ffac0000000p-4f,  0x1.33281a0000000p-4f,  0x1.8eec7e0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.5073160000000p-6f,  0x1.b4f7e40000000p-7f,  0x1.1bc25a0000000p-7f,
      0x1.7089380000000p-8f,  0x1.dea41c0000000p-9f,  0x1.36d21a0000000p-9f,  0x1.93aeb80000000p-10f,
      0x1.0624de0000000p-10f, 0x1.5476880000000p-11f, 0x1.ba2e4a0000000p-12f, 0x1.1f24e40000000p-12f,
      0x1.74eea60000000p-13f, 0x1.e459c40000000p-14f, 0x1.3a87480000000p-14f, 0x1.987f7c0000000p-15f,
      0x1.0945640000000p-15f, 0x1.58863a0000000p-16f, 0x1.bf749e0000000p-17f, 0x1.2291c60000000p-17f,
      0x1.7961820000000p-18f, 0x1.ea20e00000000p-19f, 0x1.3e47c80000000p-19f, 0x1.9d5ef20000000p-20f}},
    {"wide heads",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 1000000.0, \"head_dim\": 128}",
     64,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.9c975a0000000p-1f,  0x1.4c7bc00000000p-1f,  0x1.0bedde0000000p-1f,
      0x1.afd1360000000p-2f,  0x1.5bf9fe0000000p-2f,  0x1.186a080000000p-2f,  0x1.c3f06a0000000p-3f,
      0x1.6c310e0000000p-3f,  0x1.257b220000000p-3f,  0x1.d8ffac0000000p-4f,  0x1.7d298c0000000p-4f,
      0x1.33281a0000000p-4f,  0x1.ef0a260000000p-5f,  0x1.8eec7e0000000p-5f,  0x1.41783a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.a183500000000p-6f,  0x1.5073160000000p-6f,  0x1.0f20100000000p-6f,
      0x1.b4f7e40000000p-7f,  0x1.6020a40000000p-7f,  0x1.1bc25a0000000p-7f,  0x1.c9548c0000000p-8f,
      0x1.7089380000000p-8f,  0x1.28fb5c0000000p-8f,  0x1.dea41c0000000p-9f,  0x1.81b58a0000000p-9f,
      0x1.36d21a0000000p-9f,  0x1.f4f1e00000000p-10f, 0x1.93aeb80000000p-10f, 0x1.454dee0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.a67e500000000p-11f, 0x1.5476880000000p-11f, 0x1.125c040000000p-11f,
      0x1.ba2e4a0000000p-12f, 0x1.6453f60000000p-12f, 0x1.1f24e40000000p-12f, 0x1.cec9240000000p-13f,
      0x1.74eea60000000p-13f, 0x1.2c86480000000p-13f, 0x1.e459c40000000p-14f, 0x1.864f6a0000000p-14f,
      0x1.3a87480000000p-14f, 0x1.faeba80000000p-15f, 0x1.987f7c0000000p-15f, 0x1.492f560000000p-15f,
      0x1.0945640000000p-15f, 0x1.ab88820000000p-16f, 0x1.58863a0000000p-16f, 0x1.15a1da0000000p-16f,
      0x1.bf749e0000000p-17f, 0x1.68941c0000000p-17f, 0x1.2291c60000000p-17f, 0x1.d44e640000000p-18f,
      0x1.7961820000000p-18f, 0x1.301c040000000p-18f, 0x1.ea20e00000000p-19f, 0x1.8af7560000000p-19f,
      0x1.3e47c80000000p-19f, 0x1.007bd80000000p-19f, 0x1.9d5ef20000000p-20f, 0x1.4d1c980000000p-20f}},
    {"narrow heads",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"head_dim\": 2}",
     1,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f}},
    {"linear",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p-2f,  0x1.7ff2220000000p-3f,  0x1.1feb340000000p-3f,  0x1.afd1360000000p-4f,
      0x1.43d1360000000p-4f,  0x1.e5a8460000000p-5f,  0x1.6c310e0000000p-5f,  0x1.111aee0000000p-5f,
      0x1.99999a0000000p-6f,  0x1.33281a0000000p-6f,  0x1.ccab840000000p-7f,  0x1.59742a0000000p-7f,
      0x1.030dc60000000p-7f,  0x1.84869e0000000p-8f,  0x1.235a720000000p-8f,  0x1.b4f7e40000000p-9f,
      0x1.47ae140000000p-9f,  0x1.eb73600000000p-10f, 0x1.7089380000000p-10f, 0x1.145cee0000000p-10f,
      0x1.9e7c700000000p-11f, 0x1.36d21a0000000p-11f, 0x1.d22a500000000p-12f, 0x1.5d931c0000000p-12f,
      0x1.0624de0000000p-12f, 0x1.8929180000000p-13f, 0x1.26d42c0000000p-13f, 0x1.ba2e4a0000000p-14f,
      0x1.4b96c00000000p-14f, 0x1.f1502a0000000p-15f, 0x1.74eea60000000p-15f, 0x1.17a8e40000000p-15f}},
    {"linear below 1",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+1f,  0x1.7ff2220000000p+0f,  0x1.1feb340000000p+0f,  0x1.afd1360000000p-1f,
      0x1.43d1360000000p-1f,  0x1.e5a8460000000p-2f,  0x1.6c310e0000000p-2f,  0x1.111aee0000000p-2f,
      0x1.99999a0000000p-3f,  0x1.33281a0000000p-3f,  0x1.ccab840000000p-4f,  0x1.59742a0000000p-4f,
      0x1.030dc60000000p-4f,  0x1.84869e0000000p-5f,  0x1.235a720000000p-5f,  0x1.b4f7e40000000p-6f,
      0x1.47ae140000000p-6f,  0x1.eb73600000000p-7f,  0x1.7089380000000p-7f,  0x1.145cee0000000p-7f,
      0x1.9e7c700000000p-8f,  0x1.36d21a0000000p-8f,  0x1.d22a500000000p-9f,  0x1.5d931c0000000p-9f,
      0x1.0624de0000000p-9f,  0x1.8929180000000p-10f, 0x1.26d42c0000000p-10f, 0x1.ba2e4a0000000p-11f,
      0x1.4b96c00000000p-11f, 0x1.f1502a0000000p-12f, 0x1.74eea60000000p-12f, 0x1.17a8e40000000p-12f}},
    {"low theta",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 1.5}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f, 0x1.f98db40000000p-1f, 0x1.f3302a0000000p-1f, 0x1.ece7260000000p-1f,
      0x1.e6b2640000000p-1f, 0x1.e091a80000000p-1f, 0x1.da84a60000000p-1f, 0x1.d48b2a0000000p-1f,
      0x1.cea4ec0000000p-1f, 0x1.c8d1b20000000p-1f, 0x1.c311420000000p-1f, 0x1.bd635a0000000p-1f,
      0x1.b7c7c00000000p-1f, 0x1.b23e380000000p-1f, 0x1.acc68c0000000p-1f, 0x1.a760800000000p-1f,
      0x1.a20bd60000000p-1f, 0x1.9cc8600000000p-1f, 0x1.9795de0000000p-1f, 0x1.92741e0000000p-1f,
      0x1.8d62e60000000p-1f, 0x1.8862040000000p-1f, 0x1.8371440000000p-1f, 0x1.7e90720000000p-1f,
      0x1.79bf560000000p-1f, 0x1.74fdc40000000p-1f, 0x1.704b840000000p-1f, 0x1.6ba86a0000000p-1f,
      0x1.6714400000000p-1f, 0x1.628ed60000000p-1f, 0x1.5e18020000000p-1f, 0x1.59af920000000p-1f}},
    {"part of a head",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"partial_rotary_factor\": 0.5}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.36d21a0000000p-9f,  0x1.d22a500000000p-10f, 0x1.5d931c0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.8929180000000p-11f, 0x1.26d42c0000000p-11f, 0x1.ba2e4a0000000p-12f,
      0x1.4b96c00000000p-12f, 0x1.f1502a0000000p-13f, 0x1.74eea60000000p-13f, 0x1.17a8e40000000p-13f}},
    {"no type",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"factor\": 4.0}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.36d21a0000000p-9f,  0x1.d22a500000000p-10f, 0x1.5d931c0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.8929180000000p-11f, 0x1.26d42c0000000p-11f, 0x1.ba2e4a0000000p-12f,
      0x1.4b96c00000000p-12f, 0x1.f1502a0000000p-13f, 0x1.74eea60000000p-13f, 0x1.17a8e40000000p-13f}},
    {"both types",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"default\", \"type\": "
     "\"linear\", \"factor\": 4.0}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.36d21a0000000p-9f,  0x1.d22a500000000p-10f, 0x1.5d931c0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.8929180000000p-11f, 0x1.26d42c0000000p-11f, 0x1.ba2e4a0000000p-12f,
      0x1.4b96c00000000p-12f, 0x1.f1502a0000000p-13f, 0x1.74eea60000000p-13f, 0x1.17a8e40000000p-13f}},
    {"both forms",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}, "
     "\"rope_parameters\": {\"rope_type\": \"default\"}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p-2f,  0x1.7ff2220000000p-3f,  0x1.1feb340000000p-3f,  0x1.afd1360000000p-4f,
      0x1.43d1360000000p-4f,  0x1.e5a8460000000p-5f,  0x1.6c310e0000000p-5f,  0x1.111aee0000000p-5f,
      0x1.99999a0000000p-6f,  0x1.33281a0000000p-6f,  0x1.ccab840000000p-7f,  0x1.59742a0000000p-7f,
      0x1.030dc60000000p-7f,  0x1.84869e0000000p-8f,  0x1.235a720000000p-8f,  0x1.b4f7e40000000p-9f,
      0x1.47ae140000000p-9f,  0x1.eb73600000000p-10f, 0x1.7089380000000p-10f, 0x1.145cee0000000p-10f,
      0x1.9e7c700000000p-11f, 0x1.36d21a0000000p-11f, 0x1.d22a500000000p-12f, 0x1.5d931c0000000p-12f,
      0x1.0624de0000000p-12f, 0x1.8929180000000p-13f, 0x1.26d42c0000000p-13f, 0x1.ba2e4a0000000p-14f,
      0x1.4b96c00000000p-14f, 0x1.f1502a0000000p-15f, 0x1.74eea60000000p-15f, 0x1.17a8e40000000p-15f}},
    {"linear 2.5",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 25000.5, \"rope_scaling\": {\"rope_type\": "
     "\"linear\", \"factor\": 2.5}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.99999a0000000p-2f,  0x1.2a7c6e0000000p-2f,  0x1.b3076a0000000p-3f,  0x1.3d044c0000000p-3f,
      0x1.ce095c0000000p-4f,  0x1.50b2ac0000000p-4f,  0x1.eab88c0000000p-5f,  0x1.6599d60000000p-5f,
      0x1.0497d00000000p-5f,  0x1.7bcd3c0000000p-6f,  0x1.14c5700000000p-6f,  0x1.9361740000000p-7f,
      0x1.25f4300000000p-7f,  0x1.ac6c6a0000000p-8f,  0x1.3834040000000p-8f,  0x1.c705600000000p-9f,
      0x1.4b95e40000000p-9f,  0x1.e345100000000p-10f, 0x1.602bd00000000p-10f, 0x1.00a2dc0000000p-10f,
      0x1.7608e60000000p-11f, 0x1.10919c0000000p-11f, 0x1.8d417a0000000p-12f, 0x1.217d900000000p-12f,
      0x1.a5eb160000000p-13f, 0x1.3376760000000p-13f, 0x1.c01cac0000000p-14f, 0x1.468cfe0000000p-14f,
      0x1.dbee8c0000000p-15f, 0x1.5ad2e40000000p-15f, 0x1.f97a960000000p-16f, 0x1.705afe0000000p-16f}},
    {"llama 3.1",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 500000.0, \"head_dim\": 128, \"rope_scaling\": "
     "{\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, "
     "\"rope_type\": \"llama3\", \"factor\": 8.0}}",
     64,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.a115820000000p-1f,  0x1.53c38c0000000p-1f,  0x1.14c7080000000p-1f,
      0x1.c2ef780000000p-2f,  0x1.6f56fa0000000p-2f,  0x1.2b3dc60000000p-2f,  0x1.e788c20000000p-3f,
      0x1.8d27600000000p-3f,  0x1.4387400000000p-3f,  0x1.078d400000000p-3f,  0x1.ad63380000000p-4f,
      0x1.5dc95a0000000p-4f,  0x1.1cf1300000000p-4f,  0x1.d03cce0000000p-5f,  0x1.7a2d080000000p-5f,
      0x1.3411900000000p-5f,  0x1.f5ea7e0000000p-6f,  0x1.98de920000000p-6f,  0x1.4d12720000000p-6f,
      0x1.0f53860000000p-6f,  0x1.ba0dd80000000p-7f,  0x1.681ada0000000p-7f,  0x1.2558fe0000000p-7f,
      0x1.ddee9e0000000p-8f,  0x1.8554ec0000000p-8f,  0x1.3d28040000000p-8f,  0x1.025c6a0000000p-8f,
      0x1.a4ee400000000p-9f,  0x1.1bfa0c0000000p-9f,  0x1.67a23a0000000p-10f, 0x1.c12f3c0000000p-11f,
      0x1.132ba40000000p-11f, 0x1.47e2100000000p-12f, 0x1.765ba40000000p-13f, 0x1.90d10c0000000p-14f,
      0x1.46831a0000000p-14f, 0x1.09fb7e0000000p-14f, 0x1.b159020000000p-15f, 0x1.6103320000000p-15f,
      0x1.1f91f00000000p-15f, 0x1.d484de0000000p-16f, 0x1.7da9e80000000p-16f, 0x1.36e8ea0000000p-16f,
      0x1.fa8b860000000p-17f, 0x1.9ca3ea0000000p-17f, 0x1.5024d60000000p-17f, 0x1.11d41e0000000p-17f,
      0x1.be21880000000p-18f, 0x1.6b6d0e0000000p-18f, 0x1.280d960000000p-18f, 0x1.e257000000000p-19f,
      0x1.88ec200000000p-19f, 0x1.4014d20000000p-19f, 0x1.04be680000000p-19f, 0x1.a8d0100000000p-20f,
      0x1.5a0f4e0000000p-20f, 0x1.19e8000000000p-20f, 0x1.cb4a9a0000000p-21f, 0x1.76258e0000000p-21f,
      0x1.30c94e0000000p-21f, 0x1.f091840000000p-22f, 0x1.9483600000000p-22f, 0x1.4985fe0000000p-22f}},
    {"llama 3.2",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 500000.0, \"rope_scaling\": {\"low_freq_factor\": "
     "1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\", "
     "\"factor\": 32.0}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.53c38c0000000p-1f,  0x1.c2ef780000000p-2f,  0x1.2b3dc60000000p-2f,
      0x1.8d27600000000p-3f,  0x1.078d400000000p-3f,  0x1.5dc95a0000000p-4f,  0x1.d03cce0000000p-5f,
      0x1.3411900000000p-5f,  0x1.98de920000000p-6f,  0x1.0f53860000000p-6f,  0x1.681ada0000000p-7f,
      0x1.ddee9e0000000p-8f,  0x1.3d28040000000p-8f,  0x1.a4ee400000000p-9f,  0x1.524f360000000p-10f,
      0x1.c26c400000000p-12f, 0x1.9731ee0000000p-14f, 0x1.46831a0000000p-16f, 0x1.b159020000000p-17f,
      0x1.1f91f00000000p-17f, 0x1.7da9e80000000p-18f, 0x1.fa8b860000000p-19f, 0x1.5024d60000000p-19f,
      0x1.be21880000000p-20f, 0x1.280d960000000p-20f, 0x1.88ec200000000p-21f, 0x1.04be680000000p-21f,
      0x1.5a0f4e0000000p-22f, 0x1.cb4a9a0000000p-23f, 0x1.30c94e0000000p-23f, 0x1.9483600000000p-24f}},
    {"llama 3 outside",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 500000.0, \"original_max_position_embeddings\": "
     "4096, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.5, "
     "\"high_freq_factor\": 5.0, \"original_max_position_embeddings\": 8192}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.53c38c0000000p-1f,  0x1.c2ef780000000p-2f,  0x1.2b3dc60000000p-2f,
      0x1.8d27600000000p-3f,  0x1.078d400000000p-3f,  0x1.5dc95a0000000p-4f,  0x1.d03cce0000000p-5f,
      0x1.3411900000000p-5f,  0x1.98de920000000p-6f,  0x1.0f53860000000p-6f,  0x1.681ada0000000p-7f,
      0x1.c08c740000000p-8f,  0x1.55b4c40000000p-9f,  0x1.cc4dac0000000p-11f, 0x1.1754820000000p-12f,
      0x1.72ba420000000p-13f, 0x1.ec07d40000000p-14f, 0x1.46831a0000000p-14f, 0x1.b159020000000p-15f,
      0x1.1f91f00000000p-15f, 0x1.7da9e80000000p-16f, 0x1.fa8b860000000p-17f, 0x1.5024d60000000p-17f,
      0x1.be21880000000p-18f, 0x1.280d960000000p-18f, 0x1.88ec200000000p-19f, 0x1.04be680000000p-19f,
      0x1.5a0f4e0000000p-20f, 0x1.cb4a9a0000000p-21f, 0x1.30c94e0000000p-21f, 0x1.9483600000000p-22f}},
    {"llama 3 below 1",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"low_freq_factor\": 1.0, "
     "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\", "
     "\"factor\": 0.5}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.94eae00000000p-9f,  0x1.6bb9660000000p-9f,  0x1.328a220000000p-9f,
      0x1.f1bde80000000p-10f, 0x1.8929180000000p-10f, 0x1.26d42c0000000p-10f, 0x1.ba2e4a0000000p-11f,
      0x1.4b96c00000000p-11f, 0x1.f1502a0000000p-12f, 0x1.74eea60000000p-12f, 0x1.17a8e40000000p-12f}},
    {"yarn",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 1000000.0, \"head_dim\": 128, \"rope_scaling\": "
     "{\"type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 32768}}",
     64,
     0x1.237d37fe5d298p+0f,
     {0x1.0000000000000p+0f,  0x1.9c975a0000000p-1f,  0x1.4c7bc00000000p-1f,  0x1.0bedde0000000p-1f,
      0x1.afd1360000000p-2f,  0x1.5bf9fe0000000p-2f,  0x1.186a080000000p-2f,  0x1.c3f06a0000000p-3f,
      0x1.6c310e0000000p-3f,  0x1.257b220000000p-3f,  0x1.d8ffac0000000p-4f,  0x1.7d298c0000000p-4f,
      0x1.33281a0000000p-4f,  0x1.ef0a260000000p-5f,  0x1.8eec7e0000000p-5f,  0x1.41783a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.a183500000000p-6f,  0x1.5073160000000p-6f,  0x1.0f20100000000p-6f,
      0x1.b4f7e40000000p-7f,  0x1.6020a40000000p-7f,  0x1.1bc25a0000000p-7f,  0x1.c9548c0000000p-8f,
      0x1.6046ee0000000p-8f,  0x1.0ec7100000000p-8f,  0x1.9f4aa00000000p-9f,  0x1.3da4900000000p-9f,
      0x1.e483be0000000p-10f, 0x1.7057800000000p-10f, 0x1.17040e0000000p-10f, 0x1.a4fb700000000p-11f,
      0x1.3c1d640000000p-11f, 0x1.d832d00000000p-12f, 0x1.5e7a040000000p-12f, 0x1.02387c0000000p-12f,
      0x1.79277c0000000p-13f, 0x1.107c700000000p-13f, 0x1.847d340000000p-14f, 0x1.103a140000000p-14f,
      0x1.74eea60000000p-15f, 0x1.2c86480000000p-15f, 0x1.e459c40000000p-16f, 0x1.864f6a0000000p-16f,
      0x1.3a87480000000p-16f, 0x1.faeba80000000p-17f, 0x1.987f7c0000000p-17f, 0x1.492f560000000p-17f,
      0x1.0945640000000p-17f, 0x1.ab88820000000p-18f, 0x1.58863a0000000p-18f, 0x1.15a1da0000000p-18f,
      0x1.bf749e0000000p-19f, 0x1.68941c0000000p-19f, 0x1.2291c60000000p-19f, 0x1.d44e640000000p-20f,
      0x1.7961820000000p-20f, 0x1.301c040000000p-20f, 0x1.ea20e00000000p-21f, 0x1.8af7560000000p-21f,
      0x1.3e47c80000000p-21f, 0x1.007bd80000000p-21f, 0x1.9d5ef20000000p-22f, 0x1.4d1c980000000p-22f}},
    {"yarn new form",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": "
     "150000.0, \"factor\": 32.0, \"beta_fast\": 32.0, \"beta_slow\": 1.0, \"truncate\": false, "
     "\"original_max_position_embeddings\": 4096}}",
     32,
     0x1.58b90bfbe8e7cp+0f,
     {0x1.0000000000000p+0f,  0x1.60ca6a0000000p-1f,  0x1.e62d440000000p-2f,  0x1.4eff540000000p-2f,
      0x1.cda7f40000000p-3f,  0x1.3e19fa0000000p-3f,  0x1.b65f3e0000000p-4f,  0x1.2e0ec80000000p-4f,
      0x1.a043280000000p-5f,  0x1.03bbaa0000000p-5f,  0x1.3cc8de0000000p-6f,  0x1.7bd9280000000p-7f,
      0x1.bd50800000000p-8f,  0x1.f9fc280000000p-9f,  0x1.1270060000000p-9f,  0x1.13eef00000000p-10f,
      0x1.dea8780000000p-12f, 0x1.0f33720000000p-13f, 0x1.415b8c0000000p-15f, 0x1.badbf80000000p-16f,
      0x1.3126500000000p-16f, 0x1.a485f40000000p-17f, 0x1.21c2580000000p-17f, 0x1.8f50560000000p-18f,
      0x1.1325180000000p-18f, 0x1.7b2c8e0000000p-19f, 0x1.05448a0000000p-19f, 0x1.680cd00000000p-20f,
      0x1.f02e500000000p-21f, 0x1.55e4000000000p-21f, 0x1.d727d60000000p-22f, 0x1.44a5a60000000p-22f}},
    {"yarn betas",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 16.0, "
     "\"beta_fast\": 20, \"beta_slow\": 2, \"attention_factor\": 1.25, \"original_max_position_embeddings\": "
     "2048}}",
     32,
     0x1.4000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.9caefc0000000p-5f,  0x1.117bf80000000p-5f,
      0x1.6432f00000000p-6f,  0x1.c547ba0000000p-7f,  0x1.1736ac0000000p-7f,  0x1.47b9ea0000000p-8f,
      0x1.62fc940000000p-9f,  0x1.47a2400000000p-10f, 0x1.7089380000000p-12f, 0x1.145cee0000000p-12f,
      0x1.9e7c700000000p-13f, 0x1.36d21a0000000p-13f, 0x1.d22a500000000p-14f, 0x1.5d931c0000000p-14f,
      0x1.0624de0000000p-14f, 0x1.8929180000000p-15f, 0x1.26d42c0000000p-15f, 0x1.ba2e4a0000000p-16f,
      0x1.4b96c00000000p-16f, 0x1.f1502a0000000p-17f, 0x1.74eea60000000p-17f, 0x1.17a8e40000000p-17f}},
    {"yarn mscale",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 40, "
     "\"mscale\": 0.707, \"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096}}",
     32,
     0x1.d792dd14a1051p-1f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.3f8b740000000p-5f,
      0x1.b864360000000p-6f,  0x1.2d1b860000000p-6f,  0x1.97e5060000000p-7f,  0x1.111aee0000000p-7f,
      0x1.6872b20000000p-8f,  0x1.d2e0cc0000000p-9f,  0x1.26d42c0000000p-9f,  0x1.67459a0000000p-10f,
      0x1.9e7c6e0000000p-11f, 0x1.b326240000000p-12f, 0x1.74eea60000000p-13f, 0x1.17a8e20000000p-15f,
      0x1.a36e2e0000000p-16f, 0x1.3a87460000000p-16f, 0x1.d7b9e00000000p-17f, 0x1.61bea20000000p-17f,
      0x1.0945660000000p-17f, 0x1.8dd9ba0000000p-18f, 0x1.2a58840000000p-18f, 0x1.bf749e0000000p-19f}},
    {"yarn one mscale",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 40, "
     "\"mscale\": 0.707, \"original_max_position_embeddings\": 4096}}",
     32,
     0x1.5e6f70bd6e39cp+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.3f8b740000000p-5f,
      0x1.b864360000000p-6f,  0x1.2d1b860000000p-6f,  0x1.97e5060000000p-7f,  0x1.111aee0000000p-7f,
      0x1.6872b20000000p-8f,  0x1.d2e0cc0000000p-9f,  0x1.26d42c0000000p-9f,  0x1.67459a0000000p-10f,
      0x1.9e7c6e0000000p-11f, 0x1.b326240000000p-12f, 0x1.74eea60000000p-13f, 0x1.17a8e20000000p-15f,
      0x1.a36e2e0000000p-16f, 0x1.3a87460000000p-16f, 0x1.d7b9e00000000p-17f, 0x1.61bea20000000p-17f,
      0x1.0945660000000p-17f, 0x1.8dd9ba0000000p-18f, 0x1.2a58840000000p-18f, 0x1.bf749e0000000p-19f}},
    {"yarn null factor",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": null, "
     "\"beta_fast\": null, \"original_max_position_embeddings\": 4096}}",
     32,
     0x1.58b90bfbe8e7cp+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.3fb5f80000000p-5f,
      0x1.b8e3c00000000p-6f,  0x1.2daafc0000000p-6f,  0x1.9903e40000000p-7f,  0x1.1227d40000000p-7f,
      0x1.6a56a60000000p-8f,  0x1.d62f9c0000000p-9f,  0x1.29a9e80000000p-9f,  0x1.6c0e1c0000000p-10f,
      0x1.a674fa0000000p-11f, 0x1.c04c900000000p-12f, 0x1.8a72920000000p-13f, 0x1.5d931c0000000p-15f,
      0x1.0624de0000000p-15f, 0x1.8929180000000p-16f, 0x1.26d42c0000000p-16f, 0x1.ba2e4a0000000p-17f,
      0x1.4b96c00000000p-17f, 0x1.f1502a0000000p-18f, 0x1.74eea60000000p-18f, 0x1.17a8e40000000p-18f}},
    {"yarn null factor below 1",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": null, "
     "\"original_max_position_embeddings\": 262144}}",
     32,
     0x1.0000000000000p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-1f,  0x1.1feb340000000p-1f,  0x1.afd1360000000p-2f,
      0x1.43d1360000000p-2f,  0x1.e5a8460000000p-3f,  0x1.6c310e0000000p-3f,  0x1.111aee0000000p-3f,
      0x1.99999a0000000p-4f,  0x1.33281a0000000p-4f,  0x1.ccab840000000p-5f,  0x1.59742a0000000p-5f,
      0x1.030dc60000000p-5f,  0x1.84869e0000000p-6f,  0x1.235a720000000p-6f,  0x1.b4f7e40000000p-7f,
      0x1.47ae140000000p-7f,  0x1.eb73600000000p-8f,  0x1.7089380000000p-8f,  0x1.145cee0000000p-8f,
      0x1.9e7c700000000p-9f,  0x1.36d21a0000000p-9f,  0x1.d22a500000000p-10f, 0x1.5d931c0000000p-10f,
      0x1.0624de0000000p-10f, 0x1.a767560000000p-11f, 0x1.542fe40000000p-11f, 0x1.101c7c0000000p-11f,
      0x1.b19dc00000000p-12f, 0x1.584b320000000p-12f, 0x1.1087040000000p-12f, 0x1.ae3ee80000000p-13f}},
    {"yarn no ramp",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
     "\"beta_fast\": 11, \"beta_slow\": 11, \"original_max_position_embeddings\": 64}}",
     32,
     0x1.237d37fe5d298p+0f,
     {0x1.0000000000000p+0f,  0x1.7ff2220000000p-3f,  0x1.1feb340000000p-3f,  0x1.afd1360000000p-4f,
      0x1.43d1360000000p-4f,  0x1.e5a8460000000p-5f,  0x1.6c310e0000000p-5f,  0x1.111aee0000000p-5f,
      0x1.99999a0000000p-6f,  0x1.33281a0000000p-6f,  0x1.ccab840000000p-7f,  0x1.59742a0000000p-7f,
      0x1.030dc60000000p-7f,  0x1.84869e0000000p-8f,  0x1.235a720000000p-8f,  0x1.b4f7e40000000p-9f,
      0x1.47ae140000000p-9f,  0x1.eb73600000000p-10f, 0x1.7089380000000p-10f, 0x1.145cee0000000p-10f,
      0x1.9e7c700000000p-11f, 0x1.36d21a0000000p-11f, 0x1.d22a500000000p-12f, 0x1.5d931c0000000p-12f,
      0x1.0624de0000000p-12f, 0x1.8929180000000p-13f, 0x1.26d42c0000000p-13f, 0x1.ba2e4a0000000p-14f,
      0x1.4b96c00000000p-14f, 0x1.f1502a0000000p-15f, 0x1.74eea60000000p-15f, 0x1.17a8e40000000p-15f}},
    {"yarn low theta",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"num_hidden_layers\": 2, "
     "\"hidden_size\": 256, \"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 32, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 100.0, \"rope_scaling\": {\"rope_type\": "
     "\"yarn\", \"factor\": 4.0, \"beta_fast\": 2000, \"beta_slow\": 0.25, "
     "\"original_max_position_embeddings\": 65536}}",
     32,
     0x1.237d37fe5d298p+0f,
     {0x1.0000000000000p+0f, 0x1.bb5fae0000000p-1f, 0x1.7ff2220000000p-1f, 0x1.4c7bc00000000p-1f,
      0x1.1feb340000000p-1f, 0x1.f2a79e0000000p-2f, 0x1.afd1360000000p-2f, 0x1.75f0360000000p-2f,
      0x1.43d1360000000p-2f, 0x1.186a080000000p-2f, 0x1.e5a8460000000p-3f, 0x1.a48fda0000000p-3f,
      0x1.66f0580000000p-3f, 0x1.3247900000000p-3f, 0x1.0549c40000000p-3f, 0x1.bdb5d80000000p-4f,
      0x1.7c0fc20000000p-4f, 0x1.4400fc0000000p-4f, 0x1.1425480000000p-4f, 0x1.d697860000000p-5f,
      0x1.90df180000000p-5f, 0x1.5563000000000p-5f, 0x1.22a56e0000000p-5f, 0x1.eebfc80000000p-6f,
      0x1.a4f6600000000p-6f, 0x1.66113c0000000p-6f, 0x1.3078440000000p-6f, 0x1.02ceae0000000p-6f,
      0x1.b7d4d80000000p-7f, 0x1.7599b20000000p-7f, 0x1.3d38e20000000p-7f, 0x1.0d3ed20000000p-7f}},
};
