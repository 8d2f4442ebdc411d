# docker build --tag localization-heads . && docker run --rm --network none localization-heads
# torch is PyTorch's own build for CPUs; --build-arg TORCH_INDEX= takes the far larger one for GPUs.
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0 \
 && pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY . .
ENTRYPOINT ["python", "pipeline.py"]
CMD ["stage=pipeline"]
