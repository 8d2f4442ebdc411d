# docker build --tag localization-heads .
# docker run --rm --network none --volume "$PWD/outputs:/app/outputs" localization-heads    # the results are in outputs/
# PyTorch's own index of builds for CPUs (pytorch.org/get-started) as --build-arg TORCH_INDEX=… makes the image far smaller.
FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0 \
 && pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY . .
ENTRYPOINT ["python", "pipeline.py"]
CMD ["stage=pipeline"]
