"""Bugs of public record, planted into `bytegpt` by exact replacement, and correct variants of it.

F: id to area, mode, file, old, new, what differs in a run, and what the bug can be known by: "any" code (it is wrong
everywhere), a "habit" of the field (right only if meant), or the "author" alone. RUNS: the arguments of each run of a
mode, one run after another in one folder. VARIANTS: id to what it is and its replacements (file, old, new).
"""

RUNS = {
    "base": [["--save", "last.pt", "--log", "log.jsonl"]],
    "resume": [
        ["--updates", "16", "--stop-after", "9", "--save", "part.pt", "--log", "log.jsonl"],
        ["--updates", "16", "--resume", "part.pt", "--save", "last.pt", "--log", "log.jsonl"],
    ],
}
F = {}


def bug(name, area, known, file, old, new, what, mode="base"):
    F[name] = {"area": area, "knowable_by": known, "mode": mode, "file": file, "old": old, "new": new, "what": what}


# attention and positions
bug("mask-sees-the-next", "attention-mask", "any", "net.py", "dtype=torch.bool))", "dtype=torch.bool), diagonal=1)",
    "each position attends to the byte that it must predict")
bug("softmax-over-queries", "attention-mask", "any", "net.py", "F.softmax(score, dim=-1)", "F.softmax(score, dim=-2)",
    "weights sum to one over the wrong axis, through which the future leaks")
bug("scale-left-out", "attention-mask", "habit", "net.py", "q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))",
    "q @ k.transpose(-2, -1)", "scores are not divided by the root of the head's width")
bug("attention-dropout-always", "dropout", "any", "net.py", "F.dropout(prob, self.drop, training=self.training)",
    "F.dropout(prob, self.drop)", "attention weights are dropped in evaluation as well")
bug("heads-not-transposed-back", "attention-mask", "any", "net.py", "(prob @ v).transpose(1, 2).reshape(b, t, w)",
    "(prob @ v).reshape(b, t, w)", "heads and positions are mixed when heads are joined")
bug("positions-all-first", "positions", "habit", "net.py", "pos = torch.arange(t, device=ids.device)",
    "pos = torch.zeros(t, dtype=torch.long, device=ids.device)", "every position gets the first position's embedding")
# structure
bug("residual-missing", "block", "habit", "net.py", "x = x + self.mlp(self.ln_2(x))", "x = self.mlp(self.ln_2(x))",
    "the second half of each block has no residual")
bug("last-block-skipped", "block", "any", "net.py", "for block in self.h:", "for block in self.h[:-1]:",
    "the last block is never called, and its parameters get no gradient")
bug("final-norm-skipped", "norm", "any", "net.py", "self.lm_head(self.ln_f(x))", "self.lm_head(x)",
    "the last LayerNorm is never called")
bug("embedding-without-gradient", "gradient-flow", "any", "net.py",
    "        x = self.drop(self.wte(ids) + self.wpe(pos))",
    "        with torch.no_grad():\n            x = self.wte(ids) + self.wpe(pos)\n        x = self.drop(x)",
    "embeddings get no gradient through the input")
bug("head-copied-not-tied", "embedding-tying", "habit", "net.py", "self.lm_head.weight = self.wte.weight",
    "self.lm_head.weight.data.copy_(self.wte.weight.data)", "head and embedding begin equal, and then drift apart")
bug("initialization-not-applied", "init", "habit", "net.py", "        self.apply(self._init_weights)\n", "",
    "embeddings keep a standard deviation of 1, with which the tied head gives wild logits")
# data and loss
bug("labels-not-shifted", "data", "any", "corpus.py", "labels[r, :n] = torch.tensor(d[1:])",
    "labels[r, :n] = torch.tensor(d[:-1])", "the target is the input itself")
bug("labels-shifted-twice", "data", "habit", "net.py",
    "    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=SKIP, reduction=\"sum\")",
    "    flat = logits[:, :-1].reshape(-1, logits.size(-1)).float()\n"
    "    return F.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=SKIP, reduction=\"sum\")",
    "the collator shifts, and the loss shifts again: the byte after the next is predicted")
bug("padding-counted", "loss", "any", "corpus.py",
    "labels = torch.full((len(docs), width), SKIP, dtype=torch.long)",
    "labels = torch.full((len(docs), width), PAD, dtype=torch.long)", "padding is trained on and counted")
bug("same-order-each-epoch", "data", "habit", "corpus.py",
    "random.Random(self.seed * 1000 + self.epoch).shuffle(order)", "random.Random(self.seed).shuffle(order)",
    "documents come in the same order in each epoch")
bug("probabilities-into-cross-entropy", "loss", "any", "net.py", "return self.lm_head(self.ln_f(x))",
    "return self.lm_head(self.ln_f(x)).softmax(-1)", "the loss takes a softmax of a softmax")
# accumulation, clipping, optimizer, schedule
bug("mean-of-means", "grad-accumulation", "any", "train.py", "summed_loss(model(ids), labels) / total",
    "summed_loss(model(ids), labels) / counted(labels) / args.accumulate",
    "micro-batches with few bytes weigh as much as those with many")
bug("not-divided", "grad-accumulation", "any", "train.py", "summed_loss(model(ids), labels) / total",
    "summed_loss(model(ids), labels) / counted(labels)", "the gradient is that of the sum of the micro-batches' means")
bug("gradients-never-zeroed", "grad-accumulation", "any", "train.py",
    "    optimizer.zero_grad(set_to_none=True)\n    loss_sum = 0.0", "    loss_sum = 0.0",
    "each step adds to the gradients of all steps before it")
bug("zeroed-each-micro-batch", "grad-accumulation", "any", "train.py",
    "        loss.backward()\n        loss_sum", "        optimizer.zero_grad()\n        loss.backward()\n        loss_sum",
    "only the last micro-batch reaches the step")
bug("clip-before-the-sum", "clipping", "any", "train.py",
    "        loss_sum += loss.item()\n    params = [p for p in model.parameters() if p.requires_grad]\n"
    "    norm = clip(params, args.clip)",
    "        loss_sum += loss.item()\n        params = [p for p in model.parameters() if p.requires_grad]\n"
    "        norm = clip(params, args.clip)", "gradients are clipped after each micro-batch, not once")
bug("clip-has-no-effect", "clipping", "habit", "optim.py", "        g.mul_(factor)", "        g = g * factor",
    "the norm is reported, and the gradients stay as they were")
bug("decay-on-everything", "optimizer", "habit", "optim.py", "(decay if p.ndim > 1 else plain)",
    "(decay if p.ndim > 0 else plain)", "biases and LayerNorms decay too")
bug("rate-compounds", "schedule", "habit", "optim.py", "        g[\"lr\"] = rate",
    "        g[\"lr\"] *= rate / g[\"initial_lr\"] if \"initial_lr\" in g else g.setdefault(\"initial_lr\", rate) and 1",
    "each step multiplies the rate by the factor of the schedule")
bug("warm-up-in-micro-batches", "schedule", "author", "train.py", "rate = rate_at(step, args)",
    "rate = rate_at(step * args.accumulate, args)", "the schedule is through after a third of the run")
# evaluation, memory, resuming
bug("training-mode-lost", "evaluation", "any", "train.py", "    model.train()\n    return total / n",
    "    return total / n", "after the first evaluation dropout is off for the rest of the run")
bug("evaluated-with-dropout", "evaluation", "any", "train.py", "    model.eval()\n    total, n", "    total, n",
    "the held-out loss is taken with dropout")
bug("held-out-mean-of-means", "metrics", "habit", "train.py",
    "            total += summed_loss(model(ids), labels).item()\n            n += counted(labels)",
    "            total += summed_loss(model(ids), labels).item() / counted(labels)\n            n += 1",
    "the held-out loss is a mean over batches of different numbers of bytes")
bug("graph-kept-by-the-log", "memory", "any", "train.py", "        loss_sum += loss.item()", "        loss_sum += loss",
    "a running average keeps the graph of every step so far")
bug("moments-not-restored", "checkpoint-resume", "any", "optim.py",
    "    optimizer.load_state_dict(ckpt[\"optimizer\"])\n", "", "AdamW begins anew where the run goes on", "resume")
bug("sampler-not-restored", "checkpoint-resume", "any", "optim.py", "    sampler.restore(ckpt[\"sampler\"])\n", "",
    "the run goes on with the documents that it began with", "resume")
bug("step-not-restored", "checkpoint-resume", "any", "optim.py", "    return ckpt[\"step\"]", "    return 0",
    "warm-up and schedule begin anew where the run goes on", "resume")

VARIANTS = {
    "larger-other-seed": ("another seed, wider, fewer micro-batches", [
        ("train.py", "default=1337", "default=77"), ("train.py", '"--width", type=int, default=48', '"--width", type=int, default=64'),
        ("train.py", '"--accumulate", type=int, default=3', '"--accumulate", type=int, default=2')]),
    "fused-attention": ("torch's scaled_dot_product_attention", [
        ("net.py", "        score = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))\n"
         "        score = score.masked_fill(~self.allowed[:t, :t], float(\"-inf\"))\n"
         "        prob = F.softmax(score, dim=-1)\n        prob = F.dropout(prob, self.drop, training=self.training)\n"
         "        out = (prob @ v)",
         "        p = self.drop if self.training else 0.0\n"
         "        out = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)")]),
    "written-out-loss": ("log-softmax and gather in place of cross_entropy", [
        ("net.py", "    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=SKIP, reduction=\"sum\")",
         "    labels = labels.reshape(-1)\n    keep = labels != SKIP\n"
         "    picked = flat.log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])[:, 0]\n"
         "    return -(picked * keep).sum()")]),
    "untied-head-no-dropout": ("a head of its own, no dropout", [
        ("net.py", "        self.lm_head.weight = self.wte.weight\n", ""),
        ("train.py", '"--dropout", type=float, default=0.1', '"--dropout", type=float, default=0.0')]),
    "momentum": ("SGD with momentum and torch's clipping", [
        ("optim.py", "torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), eps=1e-8)",
         "torch.optim.SGD(groups, lr=args.lr, momentum=0.9)"),
        ("train.py", "norm = clip(params, args.clip)",
         "norm = torch.nn.utils.clip_grad_norm_(params, args.clip).item()"),
        ("train.py", '"--lr", type=float, default=3e-3', '"--lr", type=float, default=0.1')]),
    "one-batch-smoothed": ("no accumulation, label smoothing in training alone, a linear schedule", [
        ("train.py", '"--accumulate", type=int, default=3', '"--accumulate", type=int, default=1'),
        ("train.py", "loss = summed_loss(model(ids), labels) / total",
         "loss = summed_loss(model(ids), labels, 0.1) / total"),
        ("net.py", "def summed_loss(logits, labels):", "def summed_loss(logits, labels, smooth=0.0):"),
        ("net.py", "reduction=\"sum\")", "reduction=\"sum\", label_smoothing=smooth)"),
        ("optim.py", "0.5 * (args.lr - low) * (1 + math.cos(math.pi * min(1.0, done)))",
         "(args.lr - low) * (1 - min(1.0, done))")]),
}
